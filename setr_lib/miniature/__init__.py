"""The miniature: a drawn world in the official layouts of CIRR, FashionIQ and CIRCO, and two small models
trained on it, both of real architectures.

Scene descriptions never leave this package: every other stage sees only pictures, captions and annotation
files.
"""
