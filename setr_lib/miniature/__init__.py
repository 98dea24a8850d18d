"""The miniature: a drawn world that writes itself in the official layouts of CIRR, FashionIQ and CIRCO, and
the two small models of real architectures that were trained on it.

Scene descriptions never leave this package: every other stage sees only pictures, captions and annotation
files.
"""
