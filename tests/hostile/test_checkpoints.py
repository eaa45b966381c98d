"""Checkpoints from strangers, on their way into a bundle."""

from __future__ import annotations

import json

import pytest

from helpers.checkpoints import small_bert
from untorch_export.errors import ExportError
from untorch_export.export import export

TRANSFORMER = {"type": "sentence_transformers.models.Transformer", "path": ""}


@pytest.mark.parametrize("place", ["../secret", "..", "1_Pooling/deeper", "a\\b"])
@pytest.mark.parametrize("first", [True, False])
def test_a_module_outside_is_neither_read_nor_written(tmp_path, place, first):
    source = small_bert(tmp_path / "checkpoint", head="BertModel")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/config.json").write_text('{"pooling_mode_cls_token": true}')
    modules = [*([] if first else [TRANSFORMER]), {"type": "sentence_transformers.models.Pooling", "path": place}]
    (source / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ExportError, match="not in a folder beside it"):
        export(source, tmp_path / "out/bundle", task="sentence-embeddings", precisions=["fp32"])
    assert not (tmp_path / "out").exists()
