"""What `make run` calls: `python -m spyglass.local`."""

if __name__ == "__main__":
    import sys

    sys.path.insert(0, __file__.rsplit("/", 3)[0])  # needed when it is started by its path
    from spyglass.runtime.import_path import leave_current_folder

    leave_current_folder()  # before anything else is imported
    from spyglass.local.run import main

    sys.exit(main())
