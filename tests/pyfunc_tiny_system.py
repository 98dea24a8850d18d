"""The line of ``tiny_system.py`` as MLflow stores and runs it: column x in, column y out."""

# MLflow itself runs this file; nothing else imports it.
import json
from pathlib import Path

import pandas as pd
from mlflow.models import set_model  # noqa: TID253
from mlflow.pyfunc.model import PythonModel  # noqa: TID253


class Scorer:
    """A loaded line."""

    def __init__(self, folder):
        line = json.loads((Path(folder) / "line.json").read_text())
        self.slope, self.offset = line["slope"], line["offset"]

    def predict(self, frame):
        return pd.DataFrame({"y": self.slope * frame["x"] + self.offset})

    def round_trip(self, predict):
        figures = [float(y) for y in predict(pd.DataFrame({"x": [0.0, 1.0]}))["y"]]
        return (
            [] if abs(figures[0] - figures[1]) > 1e-9 else ["the line has no slope: nothing was learned"]
        ), figures


class Line(PythonModel):
    def load_context(self, context):
        self.scorer = Scorer(context.artifacts["line"])

    def predict(self, context, model_input: pd.DataFrame, params=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.scorer.predict(model_input)


set_model(Line())
