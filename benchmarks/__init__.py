"""Programs that measure SETR against named alternatives, each in one run; nothing in the pipeline imports
them.
"""
