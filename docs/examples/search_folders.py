"""Search one folder of pictures by each picture of another and a text.

    python search_folders.py GALLERY REFERENCES "the same, but red"

Vectors and answers of models are kept in the storage root of ``setr.toml`` (``var`` in the current folder
where there is none): a second run only searches.
"""

import sys
from pathlib import Path

from setr_lib import Retriever


def main(gallery: str, references: str, text: str) -> None:
    """Print the five best images for every reference."""
    retriever = Retriever.from_folder(gallery)
    for picture in sorted(Path(references).iterdir()):
        for hit in retriever.search(picture, text, k=5):
            print(picture.name, hit.rank, hit.image_id, f"{hit.score:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
