"""What every training shares: the loop over optimiser steps, and its checkpoints.

What belongs here: nothing that knows what is trained. A system brings its own data, batches, loss and
held-out measure.
"""
