"""DeBERTa: its bias is computed beside, one operator adds it; and what no operator computes is said with the reason."""

from __future__ import annotations

import pytest

from helpers.families import LAYERS, family
from untorch.bundle.folder import Bundle
from untorch.ort import kernels
from untorch_export.errors import ExportWarning
from untorch_export.export import export

DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
# As DeBERTa-v3 has it, with distances in fewer buckets than positions.
V3 = {"position_buckets": 16, "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False}
SLOW = "Not fused: 2, since its scores are not one product of queries and keys"


@pytest.mark.parametrize(("name", "settings"), [("Deberta", {}), ("DebertaV2", {}), ("DebertaV2", V3)], ids=str)
def test_every_layer_is_fused_in_every_precision_and_answers_stay(name, settings, tmp_path, recwarn):
    source = family(tmp_path / "checkpoint", name, **DISENTANGLED, **settings)
    precisions = ["fp32", "int8", *["int8_kernels"] * kernels.usable(), "fp16"]
    export(source, tmp_path / "bundle", precisions=precisions, keep_failed=True)
    bundle = Bundle(tmp_path / "bundle")
    assert list(bundle.variants) == precisions
    assert bundle.variant("fp32").verdict == "exact"
    assert bundle.variant("fp16").verdict == "close"
    for precision in precisions[1:]:
        variant = bundle.variant(precision)
        assert variant.extra["fused_layers"] == variant.extra["layers"] == LAYERS
        # Random weights leave many near-ties, which a gate for trained ones does not allow for.
        assert variant.parity["gate"]["measured"] > 0.9
    assert not [warning for warning in recwarn if "layers fused" in str(warning.message)]


def test_heads_that_are_mixed_stay_unfused_and_the_export_says_how_many_and_why(tmp_path):
    source = family(tmp_path / "checkpoint", "Deberta", **DISENTANGLED, talking_head=True)
    with pytest.warns(ExportWarning, match=f"only 0 of {LAYERS} attention layers fused .*fp16 is slower.*{SLOW}"):
        export(source, tmp_path / "bundle", precisions=["fp32", "fp16"])
    said = Bundle(tmp_path / "bundle").variant("fp16").extra
    assert (said["layers"], said["fused_layers"], sum(said["unfused"].values())) == (LAYERS, 0, LAYERS)
