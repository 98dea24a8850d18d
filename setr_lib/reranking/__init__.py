"""Stage 2: Yes/No pairs, the LoRA adapter, the judge's scores of a query's candidates, and the order made of
them.
"""
