"""The model that MLflow stores and runs ("models from code"); the work is done in the installed
``setr_lib``.
"""

# MLflow itself runs this file; nothing else imports it.
import pandas as pd
from mlflow.models import set_model  # noqa: TID253
from mlflow.pyfunc.model import PythonModel  # noqa: TID253


class QueryEncoder(PythonModel):
    """The query side of a trained retrieval system: columns reference, modification in; vector and
    error out.

    See ``setr_lib.registry.system_serving``.
    """

    def load_context(self, context):
        """Load the bundle among the model's artifacts."""
        from setr_lib.registry.portable import tidy
        from setr_lib.registry.system_serving import QueryScorer

        self.scorer = QueryScorer.load(context.artifacts, context.model_config)
        tidy(__file__)

    # MLflow reads this type hint: a data frame, whose columns the logged signature declares.
    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context, model_input: pd.DataFrame, params=None
    ):
        """Encode the queries of a data frame."""
        from setr_lib.registry.request_cells import with_nulls

        return with_nulls(self.scorer.predict(model_input))


set_model(QueryEncoder())
