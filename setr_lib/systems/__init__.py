"""Trained retrieval systems: stage-1 models that learn from triplets or images on top of a frozen encoder.

``recipe.py`` lists them, ``options.py`` has the settings of each, ``models/`` what each computes.
"""
