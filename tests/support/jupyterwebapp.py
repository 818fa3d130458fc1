"""What Kubeflow's jupyter-web-app does with ``spawnerFormDefaults``, written from its page and its server: rules, not their code.

The page fills a form from the sections and sends what is chosen; controls of a read-only section send nothing. The server takes
the section's value where it is read-only, refuses what was sent then, and looks groups up by their key.
"""

from __future__ import annotations

from typing import Any

Form = dict[str, Any]
SERVERS = {"jupyter": "image", "group-one": "imageGroupOne", "group-two": "imageGroupTwo"}
NUMBERS = ("none", "1", "2", "4", "8")  # of devices: what the page offers
_READ_ONLY = ("cpu", "memory", "gpus", "shm", "configurations", "imagePullPolicy", "affinityConfig", "tolerationGroup")


def show_image(form: Form, option: str) -> str:
    """The text of an option: what stands before the second colon; with hideRegistry without a first part that has a dot in it."""
    name, *rest = option.split(":")
    parts = name.split("/")
    if form.get("hideRegistry") and len(parts) > 1 and "." in parts[0]:
        parts.pop(0)
    return "/".join(parts) + (f":{rest[0]}" if rest and not form.get("hideTag") else "")


def fill_form(form: Form, server: str = "jupyter") -> dict[str, Any]:
    """What the page sends when nothing is changed. KeyError for a section that it cannot do without."""
    volumes = [form["workspaceVolume"]["value"], *form["dataVolumes"]["value"]]
    for volume in volumes:
        assert {"mount"} < set(volume) <= {"mount", "newPvc", "existingSource"}
    sent = {
        "name": "nb",
        "namespace": "alice",
        "serverType": server,
        "image": form[SERVERS[server]]["value"],
        "imagePullPolicy": form["imagePullPolicy"]["value"],
        "cpu": _number(form["cpu"]["value"]),
        "cpuLimit": _limit(form["cpu"]),
        "memory": f"{_number(form['memory']['value'])}Gi",
        "memoryLimit": f"{_limit(form['memory'])}Gi",
        "gpus": {"vendor": form["gpus"]["value"]["vendor"], "num": form["gpus"]["value"]["num"]},
        "workspace": form["workspaceVolume"]["value"],
        "datavols": form["dataVolumes"]["value"],
        "affinityConfig": form["affinityConfig"]["value"],
        "tolerationGroup": form["tolerationGroup"]["value"],
        "shm": form["shm"]["value"],
        "configurations": form["configurations"]["value"],
    }
    return {key: value for key, value in sent.items() if not (key in _READ_ONLY and form[key].get("readOnly"))}


def _number(text: str) -> str:
    return f"{float(text.removesuffix('Gi')):g}"  # what is no number leaves the field as it was


def _limit(section: dict[str, Any]) -> str:
    return f"{float(section['value'].removesuffix('Gi')) * float(section['limitFactor']):.1f}"


def list_vendors(form: Form) -> list[str]:
    """What the page offers as devices; each needs a name to show."""
    return [vendor["limitsKey"] for vendor in form["gpus"]["value"]["vendors"] if vendor["uiName"]]


def _take(form: Form, sent: dict[str, Any], key: str, section: str = "") -> Any:
    held = form.get(section or key)
    if held is not None and held.get("readOnly"):
        assert key not in sent, f"{key} is readonly but a value was provided"
        return held["value"]
    if held is not None:
        assert "value" in held  # read before it is known whether it is needed
        assert sent.get(key) is not None, f"no value for {key}"
    return sent.get(key)


def make_notebook(form: Form, sent: dict[str, Any]) -> dict[str, Any]:
    """The Notebook that the server creates of a request."""
    assert sent["serverType"] in SERVERS
    cpu, memory = _take(form, sent, "cpu"), _take(form, sent, "memory")
    limits = {"cpu": sent["cpuLimit"], "memory": sent["memoryLimit"]}
    assert float(limits["cpu"]) >= float(cpu)
    assert float(limits["memory"].removesuffix("Gi")) >= float(memory.removesuffix("Gi"))
    gpus = _take(form, sent, "gpus")
    if gpus["num"] != "none":
        limits[gpus["vendor"]] = str(gpus["num"])
    container: dict[str, Any] = {
        "name": sent["name"],
        "image": _take(form, sent, "image").strip(),
        "imagePullPolicy": _take(form, sent, "imagePullPolicy"),
        "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": limits},
        "volumeMounts": [],
    }
    pod: dict[str, Any] = {"serviceAccountName": "default-editor", "containers": [container], "volumes": [], "tolerations": []}
    for key, name, part in (("tolerationGroup", "groupKey", "tolerations"), ("affinityConfig", "configKey", "affinity")):
        chosen = _take(form, sent, key)
        found = [option for option in form[key].get("options", []) if option[name] == chosen]
        if chosen != "none" and found:
            pod[part] = found[0][part]
    if _take(form, sent, "shm"):
        pod["volumes"].append({"name": "dshm", "emptyDir": {"medium": "Memory"}})
        container["volumeMounts"].append({"name": "dshm", "mountPath": "/dev/shm"})
    labels = dict.fromkeys(_take(form, sent, "configurations"), "true")
    for volume in [*_take(form, sent, "datavols", "dataVolumes"), _take(form, sent, "workspace", "workspaceVolume")]:
        claim = volume["newPvc"]["metadata"]["name"].replace("{notebook-name}", sent["name"])
        pod["volumes"].append({"name": claim, "persistentVolumeClaim": {"claimName": claim}})
        container["volumeMounts"].append({"name": claim, "mountPath": volume["mount"]})
    metadata = {"name": sent["name"], "namespace": sent["namespace"], "labels": {"app": sent["name"], **labels}}
    return {"apiVersion": "kubeflow.org/v1beta1", "kind": "Notebook", "metadata": metadata, "spec": {"template": {"spec": pod}}}
