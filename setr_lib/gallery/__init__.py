"""The gallery's vectors in LanceDB: written once per picture, resumed after a kill, versioned, read back, searched.

Import :class:`setr_lib.gallery.store.GalleryStore` from its module; nothing is imported here.
"""
