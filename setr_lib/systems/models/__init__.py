"""What each trained retrieval system computes: one torch module per system.

These modules import torch when they are imported; other packages import them inside functions.
"""
