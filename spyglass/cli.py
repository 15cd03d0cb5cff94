"""The console script `spyglass`: a command for each program, which imports that program alone.

Imported by that script before anything else, also in the processes below a worker, which must load
no ZeroMQ: so nothing is imported here but what takes the current folder off the path. Supervisor
starts this file by its path, in a checkout and in an installation alike.
"""

if __name__ == "__main__":
    import sys

    sys.path.insert(0, __file__.rsplit("/", 2)[0])  # the folder of the package

import sys

from spyglass.runtime.import_path import leave_current_folder

#: For each command: its module, the extra of the installation that it needs, and what it is for.
COMMANDS = {
    "up": ("spyglass.local.run", "local", "start broker, two workers and web on this machine"),
    "broker": ("spyglass.broker.cli", "", "take pictures and share them out among workers"),
    "worker": ("spyglass.worker.cli", "worker", "join a broker and recognise pictures"),
    "web": ("spyglass.web.cli", "web", "serve the pages and the HTTP API before a broker"),
    "classify": ("spyglass.client.cli", "", "send pictures to a broker and print what they show"),
    "keys": ("spyglass.keys.cli", "", "let other machines join, encrypted, and shut them out"),
    "doctor": ("spyglass.doctor", "", "say what is wrong on this machine, and what to do"),
}
EXAMPLES = """examples:
  spyglass up
  spyglass classify photo.jpg
  spyglass worker tcp://192.168.1.5:5556
  spyglass doctor
  spyglass --print-completion bash > ~/.local/share/bash-completion/completions/spyglass

`spyglass COMMAND --help` shows more."""


def main() -> int:
    """Run the command that the first word names; its exit code."""
    leave_current_folder()  # before anything else is imported
    from importlib import import_module

    words = sys.argv[1:]
    if not words or words[0] not in COMMANDS:
        return _without_command(words)
    module, extra, _ = COMMANDS[words[0]]
    try:
        program = import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "spyglass" or not extra:
            raise
        from spyglass.runtime.commands import not_installed

        sys.exit(f"spyglass {words[0]}: {not_installed(missing, extra)}")
    del sys.argv[1]
    return int(program.main())


def _without_command(words: list[str]) -> int:
    """Help, version, completion or an error; the exit code."""
    import argparse

    from spyglass import __version__

    parser = argparse.ArgumentParser(
        prog="spyglass",
        description="Recognises pictures on your own machines, even while some of them die.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"Spyglass {__version__}")
    parser.add_argument(
        "--print-completion",
        choices=("bash", "zsh", "tcsh"),
        help="print a script by which this shell completes the words of `spyglass`",
    )
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, (_, _, purpose) in COMMANDS.items():
        commands.add_parser(name, help=purpose)
    options = parser.parse_args(words)
    if options.print_completion is None:
        parser.print_help(sys.stderr)
        return 2
    print(_completion(options.print_completion))
    return 0


def _completion(shell: str) -> str:
    """A script for a shell, with all flags of the commands whose packages are installed."""
    import argparse
    from importlib import import_module
    from pathlib import Path

    import shtab

    whole = argparse.ArgumentParser(prog="spyglass")
    commands = whole.add_subparsers()
    for name, (module, _, purpose) in COMMANDS.items():
        try:
            program = [import_module(module).parser()]
        except ModuleNotFoundError:
            program = []
        command = commands.add_parser(name, help=purpose, add_help=not program, parents=program)
        for action in command._actions:
            if action.type is Path or action.metavar == "PATH":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(whole, shell=shell)


if __name__ == "__main__":
    sys.exit(main())
