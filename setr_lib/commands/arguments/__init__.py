"""The arguments of the ``setr`` commands and what hands them on: one module for each group of commands.

A module has one function for each command (or family of commands) that adds its parser, and the handlers
that these name. A handler imports the command's module when it is called: nothing heavy is imported here.
"""
