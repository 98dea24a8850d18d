"""A process to kill: embeds a gallery and says after each batch, on standard output, how many pictures are
done.
"""

from __future__ import annotations

import sys
import time

import polars as pl

from setr_lib.settings import EncoderSettings
from setr_lib.spaces import row_writer
from setr_lib.spaces.open_clip_space import OpenClipSpace
from setr_lib.spaces.vector_store import GalleryStore


def main() -> None:
    uri, frame, encoder_name, batch_size, pause = sys.argv[1:]
    row_writer.SHARE = 0  # batches are appended at once, as those of large models are
    encoder = OpenClipSpace.load(EncoderSettings(name=encoder_name), "cpu")

    def say(done: int, total: int, what: str) -> None:
        print(f"{done}/{total} {what}", flush=True)
        time.sleep(float(pause))

    store, gallery = GalleryStore(uri), pl.read_parquet(frame)
    report = store.synchronise(
        store.table_name("g", encoder), gallery, encoder, batch_size=int(batch_size), progress=say
    )
    print(f"embedded {report.embedded}, kept {report.kept}", flush=True)


if __name__ == "__main__":
    main()
