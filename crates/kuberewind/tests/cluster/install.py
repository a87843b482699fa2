"""Lets Helm's own engine install a chart into a cluster.

Reads {"kubeconfig": path, "chart": path, "name", "namespace", "values"}; the release is kept in memory
only. Writes the release.
"""

import json
import sys

from helm_python import Chart, Config, _native

asked = json.load(sys.stdin)
options = {
    "namespace": asked["namespace"],
    "timeout_seconds": 30,
    # The double has no schema to offer.
    "disable_openapi_validation": True,
}
config = Config(
    kubeconfig_path=asked["kubeconfig"], namespace=asked["namespace"], storage_driver="memory"
)
with Chart.load(asked["chart"]) as chart, config:
    release = _native.call_string(
        "helm_install",
        config._raw(),
        _native.HANDLE(0),
        chart._raw(),
        None,
        asked["name"],
        json.dumps(asked["values"]),
        json.dumps(options),
    )
    sys.stdout.write(release)
