"""The stages of the pipeline, wired once for assets, commands and scripts. Nothing is imported here."""
