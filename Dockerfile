# SETR in a container: `docker build -t setr .`, then, in the folder of a project,
#   docker run --rm --gpus all -v "$PWD:/project" -v setr-models:/models setr setr doctor
# docs/scaling.md says more. The lock file is of this Python.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    HF_HOME=/models \
    DO_NOT_TRACK=true \
    TOKENIZERS_PARALLELISM=false

WORKDIR /setr
# First what changes seldom: a change of the code does not install the packages anew.
RUN python -m pip install --no-cache-dir uv
COPY requirements.lock ./
RUN uv pip install --system --require-hashes -r requirements.lock
COPY . .
RUN uv pip install --system --no-deps -e .

# The project's folder: setr.toml, data, var/ and dagster_home/.
WORKDIR /project
EXPOSE 3000 5000
CMD ["setr", "doctor"]
