"""The model that MLflow stores and runs ("models from code"): a thin shell around the installed ``setr_lib``."""

# MLflow itself runs this file; nothing else imports it.
import pandas as pd
from mlflow.models import set_model  # noqa: TID253
from mlflow.pyfunc.model import PythonModel  # noqa: TID253


class Reranker(PythonModel):
    """Columns reference, modification, candidate in; score and p_yes out. See ``setr_lib.registry.serving``."""

    def load_context(self, context):
        from setr_lib.registry.serving import PairScorer

        self.scorer = PairScorer.load(context.artifacts, context.model_config)

    # MLflow reads this type hint: a data frame, whose columns the logged signature declares.
    def predict(self, context, model_input: pd.DataFrame, params=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.scorer.predict(model_input)


set_model(Reranker())
