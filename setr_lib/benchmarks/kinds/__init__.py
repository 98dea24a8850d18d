"""The benchmarks that come with SETR: one module per kind of data set, named as settings name it.

A module here is found by its name; its subclass of ``Benchmark`` has that name as ``kind``.
"""
