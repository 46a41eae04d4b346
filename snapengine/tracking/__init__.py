"""Every MLflow run knows its data. Needs `pip install 'snapengine[mlflow]'`, and loads it when it is used.

with mlflow.start_run():
    view = snapengine.view("scans")          # as this run began, and noted in it

snapengine.tracking.views(run_id)            # what a run saw
snapengine.view("scans", at="run:/<id>")     # the very same again
"""

from __future__ import annotations
