"""What Helm's own engine makes of a chart.

Reads {"chart": path, "cases": [{"values", "name", "namespace", "kubeVersion"}]} and writes for each case
{"refused": text or null, "lint": [text], "objects": [object], "notes": text}. Given {"yaml": text} it
writes the text's documents. Given {"do": "install" | "upgrade" | "uninstall", "kubeconfig", "namespace",
"name", "chart", "values"} it does that to a cluster, as the `helm` command does, and writes {"said"} or
{"failed": text}.
"""

import json
import re
import sys

from helm_python import Chart, Config, HelmError, _native, lint, values_from_yaml


def render(chart, case):
    options = {
        "name": case["name"],
        "namespace": case["namespace"],
        "kube_version": case["kubeVersion"],
    }
    values = json.dumps(case["values"])
    return json.loads(
        _native.call_string("helm_render", chart._raw(), values, json.dumps(options))
    )


def objects(files):
    """In the order of the files' names. values_from_yaml is Go's YAML."""
    for name in sorted(name for name in files if name.endswith(".yaml")):
        yield from documents(files[name])


def documents(text):
    for document in re.split(r"^---$", text, flags=re.MULTILINE):
        made = values_from_yaml(document)
        if made:
            yield made


def judge(path, chart, case):
    try:
        chart.validate_schema(case["values"])
    except HelmError as error:
        return {"refused": str(error), "lint": [], "objects": [], "notes": ""}
    report = lint(path, case["values"], strict=True, namespace=case["namespace"])
    # 1 is good advice.
    found = [m["path"] + ": " + m["error"] for m in report["messages"] if m["severity"] > 1]
    files = render(chart, case)
    notes = next(text for name, text in files.items() if name.endswith("NOTES.txt"))
    return {
        "refused": None,
        "lint": found + report["errors"],
        "objects": list(objects(files)),
        "notes": notes,
    }


def act(asked):
    with Config(kubeconfig_path=asked["kubeconfig"], namespace=asked["namespace"]) as cluster:
        if asked["do"] == "install":
            return cluster.install(
                asked["chart"], asked["name"], asked["values"], timeout=60, wait="watcher"
            )
        if asked["do"] == "upgrade":
            return cluster.upgrade(
                asked["chart"],
                asked["name"],
                asked["values"],
                reuse_values=True,
                timeout=60,
                wait="watcher",
            )
        return cluster.uninstall(asked["name"], timeout=60, wait="watcher")


asked = json.load(sys.stdin)
if "yaml" in asked:
    json.dump(list(documents(asked["yaml"])), sys.stdout)
elif "do" in asked:
    try:
        said = {"said": act(asked)}
    except HelmError as error:
        said = {"failed": str(error)}
    json.dump(said, sys.stdout)
else:
    with Chart.load(asked["chart"]) as chart:
        json.dump([judge(asked["chart"], chart, case) for case in asked["cases"]], sys.stdout)
