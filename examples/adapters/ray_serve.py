"""A server of versions inside each replica of Ray Serve; a new version is no new replica.

Ray replaces replicas to change a model: with one replica nobody answers while the new one
starts.  Here a replica holds a :class:`~prodml.VersionedModelServer`, and a change of
``user_config`` makes it load the version beside the old one, try it, switch and let the old
one go.  No request waits and none is lost.  In the file that ``serve deploy`` takes::

    applications:
      - name: churn
        route_prefix: /
        import_path: examples.adapters.ray_serve:deployment
        args: {version: v1, factor: 1.0}
        deployments:
          - name: Replica
            user_config: {version: v2, factor: 2.0}   # change this, and only this

``serve.run`` from Python starts new replicas whatever has changed; the file does not.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from prodml import VersionedModelServer
from prodml.integrations.open_inference import OpenInferenceApp, open_inference_app


@cache
def server() -> VersionedModelServer:
    """This process's server: one a replica."""
    return VersionedModelServer(name="churn")


def application() -> OpenInferenceApp:
    """The replica's application; made in the replica, since a server cannot be pickled."""
    return open_inference_app(server())


def load(config: Mapping[str, Any]) -> Callable[[Any], Any]:
    """The model that ``config`` names; yours comes from a ModelRegistry, by version."""
    factor = config["factor"]
    return lambda rows: rows.sum(axis=1) * factor


class Replica:
    """What Ray calls in a replica."""

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Serve the version of ``config``; those that are no longer asked go."""
        here, version = server(), str(config["version"])
        if version not in here.versions:
            here.load_model(version, load(config))
        here.set_default_version(version, reason="user_config")
        for other in here.versions:
            if other != version:
                here.unload_model(other)


def deployment(config: Mapping[str, Any]) -> Any:
    """Ray's "application builder": ``config`` are the ``args`` of its configuration file."""
    from ray import serve

    replica = serve.deployment(serve.ingress(application)(Replica))
    return replica.options(user_config=dict(config)).bind()
