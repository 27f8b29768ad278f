"""The model, the same to the last bit in every server, and the request."""

import json
import sys

WIDTH = 20


def trained():
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4000, WIDTH))
    labels = (rows[:, 0] + rows[:, 1] * rows[:, 2] + rng.normal(size=4000) > 0).astype(int)
    model = HistGradientBoostingClassifier(max_iter=60, early_stopping=False, random_state=0)
    return model.fit(rows, labels)


def body() -> str:
    row = [round(0.137 * place - 1, 4) for place in range(WIDTH)]
    tensor = {"name": "x", "shape": [1, WIDTH], "datatype": "FP64", "data": [row]}
    return json.dumps({"inputs": [tensor]})


def port() -> int:
    return int(sys.argv[1])


def asgi(app) -> None:
    """Run ``app`` as every ASGI candidate is run."""
    import uvicorn

    uvicorn.run(
        app, host="127.0.0.1", port=port(), log_level="error", access_log=False, loop="uvloop"
    )
