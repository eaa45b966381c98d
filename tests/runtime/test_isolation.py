"""The promise of the project: nothing of the export side is needed, or even importable, at run time."""

from __future__ import annotations

import json
import subprocess
import sys

FORBIDDEN = (
    "torch",
    "transformers",
    "optimum",
    "onnx",
    "huggingface_hub",
    "untorch_export",
    "safetensors",
    "model_signing",
    "sigstore",
)

BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ImportError(f"{{name}} must not be imported at run time")
sys.meta_path.insert(0, Blocker())
"""


def python(code: str, *arguments: str) -> str:
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_blocker_blocks():
    code = BLOCKER + "\ntry:\n    import torch\nexcept ImportError:\n    print('blocked')"
    assert python(code) == "blocked\n"


def test_a_first_answer_needs_nothing_of_the_export_side(tiny_bundle):
    code = BLOCKER + "\nfrom untorch import pipeline\nprint(pipeline(None, sys.argv[1])('hello world')[0]['label'])"
    assert python(code, str(tiny_bundle)).strip() in ("NEGATIVE", "POSITIVE")


def test_every_command_runs_without_the_export_side(tiny_bundle):
    code = BLOCKER + "\nfrom untorch.cli import main\nsys.exit(main(sys.argv[1:]))"
    assert json.loads(python(code, "run", str(tiny_bundle), "hello", "--json"))["label"] in ("NEGATIVE", "POSITIVE")
    assert "[CLS]" in python(code, "explain", str(tiny_bundle), "hello")
    assert python(code, "verify", str(tiny_bundle)).splitlines()[-1] == "verified"
    assert json.loads(python(code, "doctor", "--json"))["devices"]["cpu"].startswith("works")


def test_importing_untorch_imports_no_engine():
    code = "import sys, untorch\nprint([n for n in ('numpy', 'tokenizers', 'onnxruntime') if n in sys.modules])"
    assert python(code) == "[]\n"


def test_telemetry_is_off_before_onnxruntime_is_imported():
    code = (
        "import os, sys\nos.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime': print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from untorch.ort.devices import onnxruntime\nonnxruntime()"
    )
    assert set(python(code).split()) == {"1"}
