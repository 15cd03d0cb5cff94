"""What a program needs from its process: settings, logs, memory, open files and the module path.

Nothing here knows of pictures, messages or sockets, nor what a program does with its settings.
"""
