"""What is said where Ray is missing or too old, or pyarrow is."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("stub", "message"),
    [
        ("None", "this needs Ray: pip install 'untorch[ray]'"),
        ("types.SimpleNamespace(__version__='2.40.0')", "Ray 2.40.0 is installed; this needs 2.60 or newer"),
    ],
)
def test_it_says_what_to_install(stub, message):
    code = f"import sys, types; sys.modules['ray'] = {stub}; import untorch.ray"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"untorch.errors.DependencyError: {message}" in result.stderr
