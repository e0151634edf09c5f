"""Evaluation and export on the real stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from blade_dist.data.bundle import DataBundle
from blade_dist.data.seeds import stable_seed
from blade_dist.serving.manifest import check_files, read_manifest
from blade_dist.settings import Config
from blade_dist.stages.evaluate import evaluate_stage
from blade_dist.stages.export import export_stage
from blade_dist.stages.opened import open_run
from blade_dist.store.run import RunPaths

POLICIES = {"popularity", "co-occurrence", "successors", "EASE", "blade", "sft"}

SERVE = """
import json, sys
from vllm import LLM
llm = LLM(model=sys.argv[1], dtype="float32", max_model_len=128, enforce_eager=True, enable_chunked_prefill=False)
prompt = {"prompt_token_ids": json.loads(sys.argv[2])}
params = llm.get_default_sampling_params()  # of the folder's generation_config.json: greedy
assert params.temperature == 0, params
params.max_tokens, params.logprobs = int(sys.argv[3]), 0
answer = llm.generate([prompt], params, use_tqdm=False)
print("ANSWER", json.dumps(list(answer[0].outputs[0].token_ids)))
"""


OWN = "tests.helpers.own_reward:hit"


@pytest.fixture(scope="module")
def settings(tiny_config: Config, trained: dict[int, RunPaths]) -> Config:
    values = tiny_config.model_dump()
    values["run"]["dir"] = trained[1].root
    values["evaluate"].update(bootstrap=200, beam_width=2, best_of=[2, 4], select_by={"ild@3": 1.0})
    values["evaluate"].update(rerank={"mmr": [0.1, 0.9], "calibrated": [0.5]}, rerank_pool=12)
    values["evaluate"]["metrics"] += ["expected_ndcg@3", OWN]
    values["reward"].update(ranker_top=12)
    return Config.model_validate(values)


def test_checkpoints_are_compared(settings: Config, capsys: pytest.CaptureFixture[str]) -> None:
    paths = RunPaths(settings.run.dir)
    summary = evaluate_stage(open_run(settings), paths.policy("blade"), [paths.reference], Console(width=140))
    rows = pq.read_table(paths.evaluation / "per_user.parquet").to_pandas()
    assert (rows[OWN] == (rows["ndcg@3"] > 0)).all()  # asked in a process of its own
    searches = rows[rows["policy"].str.contains("best of|mmr|calibrated")]
    rows = rows.drop(searches.index)
    assert set(rows["policy"]) == POLICIES
    assert set(rows["decode"]) == {"list", "rank", "sampled", "beam"}
    greedy = rows[rows["decode"] == "list"].pivot(index="prompt", columns="policy", values="reward")
    assert len(greedy) == len(rows) / len(POLICIES) / 4
    for policy in POLICIES:
        assert summary[policy]["reward"] == pytest.approx(greedy[policy].mean())
    difference = summary["difference"]["reward"]
    assert difference["mean"] == pytest.approx((greedy["blade"] - greedy["sft"]).mean())
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert summary["blade"]["invalid"] == summary["beam"]["sft"]["duplicate"] == summary["rank"]["sft"]["invalid"] == 0
    trained = {"blade": ["list"], "sft": ["list", "rank"]}
    assert summary["decode"] == {"served": "list", "trained_for": trained}
    tokens = {way: of["blade"]["tokens_per_prompt"] for way, of in summary["cost"].items()}
    assert 1 <= tokens["rank"] < min(tokens["list"], tokens["beam"])
    assert settings.lists.k < tokens["list"]
    assert json.loads((paths.evaluation / "summary.json").read_text()) == summary
    by_ranker = {name: summary["rank"][name]["expected_ndcg@3"] for name in POLICIES}  # of the fine-tuned model
    assert 0 < by_ranker["popularity"] < by_ranker["sft"] <= 1
    said = capsys.readouterr().out
    assert said.count("blade minus sft") == 1
    assert "which is served: mean over prompts" in said
    assert (paths.evaluation / "report.txt").read_text().count("blade minus sft") == 4


def test_best_of_n_is_the_best_of_what_the_reference_samples(settings: Config) -> None:
    """It rises with N in the metric that it chooses by; a choice by the held-out items is an oracle."""
    rows = pq.read_table(RunPaths(settings.run.dir).evaluation / "per_user.parquet").to_pandas()
    means = rows[rows["decode"] == "sampled"].groupby("policy")[["reward", "ild@3"]].mean()
    blind, oracle = ([f"sft best of {n}{mark}" for n in (2, 4)] for mark in ("", " (oracle)"))
    assert set(means.index) == {*POLICIES, *blind, *oracle}
    assert means["ild@3"]["sft"] < means["ild@3"][blind[0]] < means["ild@3"][blind[1]]
    assert means["reward"]["sft"] < means["reward"][oracle[0]] < means["reward"][oracle[1]]
    assert all(len(items) == settings.lists.k for items in rows["items"])


def test_rerankers_trade_the_references_best_items_for_diversity(settings: Config) -> None:
    paths = RunPaths(settings.run.dir)
    rows = pq.read_table(paths.evaluation / "per_user.parquet").to_pandas()
    ranked = rows[rows["decode"] == "rank"]
    means = ranked.groupby("policy")["ild@3"].mean()
    assert set(means.index) == {*POLICIES, "sft mmr 0.1", "sft mmr 0.9", "sft calibrated 0.5"}
    assert means["sft"] < means["sft mmr 0.1"] < means["sft mmr 0.9"]
    prompts = {name: part["prompt"].tolist() for name, part in ranked.groupby("policy")}
    assert all(numbers == prompts["sft"] for numbers in prompts.values())
    data = open_run(settings).data
    seen = data.test.rows(ranked["prompt"].to_numpy()).seen
    for row, items in enumerate(ranked["items"]):
        assert len({*items}) == settings.lists.k
        assert not {*items} & {*seen[row]}
    summary = json.loads((paths.evaluation / "summary.json").read_text())
    assert summary["rank"]["sft mmr 0.9"]["ild@3"] == pytest.approx(means["sft mmr 0.9"])


def test_an_export_recommends_what_evaluate_scored(settings: Config, tiny_data: DataBundle, tmp_path: Path) -> None:
    """A copy of the folder answers in a process of its own, without Ray: every held-out user by every way of decoding,
    and requests with their own K, exclusions and limits beside them."""
    paths, catalog, served = RunPaths(settings.run.dir), tiny_data.catalog, tmp_path / "elsewhere"
    export_stage(settings, paths.policy("blade"), tmp_path / "served", Console(quiet=True))
    (tmp_path / "served").rename(served)
    rows = pq.read_table(paths.evaluation / "per_user.parquet")
    rows = rows.filter(pc.field("policy") == "blade").to_pandas()
    seen = tiny_data.test.rows(rows["prompt"].to_numpy()).seen
    asked = [
        {
            "history": catalog.item_ids[seen[row]].tolist(),
            "decode": way,
            "seed": stable_seed(settings.run.seed, "evaluate", prompt),
        }
        for row, (prompt, way) in enumerate(zip(rows["prompt"], rows["decode"], strict=True))
    ]
    own = [
        {"history": ["gone", *one["history"]], "decode": way, "k": k, "exclude": one["exclude"], "at_most": [("*", 1)]}
        for one in [asked[0] | {"exclude": [catalog.item_ids[5], "group:" + catalog.group_names[0]]}]
        for way in ("list", "rank", "beam", "sampled")
        for k in (2, 3)
    ]
    longer = [row for row in range(8) if len(asked[row]["history"]) <= 30]  # of lists that are written item by item
    requests = [*asked, *own, *({"history": asked[row]["history"], "k": 5} for row in longer)]
    fields = {"history": pa.list_(pa.string()), "decode": pa.string(), "seed": pa.int64(), "k": pa.int64()}
    fields |= {"exclude": pa.list_(pa.string()), "at_most": pa.map_(pa.string(), pa.int64())}
    pq.write_table(pa.Table.from_pylist(requests, schema=pa.schema(fields)), tmp_path / "users.parquet")
    command = [*(sys.executable, "-m", "blade_dist", "recommend", str(served), "--threads", "1"), "--histories"]
    command += [str(tmp_path / "users.parquet"), "--out", str(tmp_path / "lists.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    lists = pq.read_table(tmp_path / "lists.parquet").to_pylist()
    index = {item: number for number, item in enumerate(catalog.item_ids)}
    items = [[index[item] for item in one["items"]] for one in lists]
    assert set(rows["decode"]) == {"list", "rank", "beam", "sampled"}
    assert items[: len(rows)] == [row.tolist() for row in rows["items"]]
    assert all(len(one["logprobs"]) == 3 and max(one["logprobs"]) <= 0 for one in lists[: len(rows)])
    assert all(one["skipped"] == [] for one in lists[: len(rows)])
    groups = catalog.groups
    for one, request, found in zip(lists[len(rows) :], own, items[len(rows) :], strict=False):
        held = np.concatenate([groups[item] for item in found])
        assert (len({*held}), len({*found}), one["skipped"]) == (len(held), len(found), ["gone"])
        # groups may be full before the list is: it ends there
        assert len(found) == request["k"] or len(held) == catalog.n_groups - 1
        assert not {0, 5} & {*held, *(item for item in found if item == 5)}
        assert not {*one["items"]} & {*request["history"]}
    for row, found in zip(longer, items[len(rows) + len(own) :], strict=True):
        assert len({*found}) == 5
        assert found[:3] == items[row]  # item by item, a longer list begins as a shorter one


def test_an_export_serves(settings: Config, tiny_data: DataBundle, tmp_path: Path) -> None:
    """The folder answers in transformers and in a vLLM started apart, with the same list."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    paths = RunPaths(settings.run.dir)
    out = tmp_path / "served"
    export_stage(settings, paths.policy("blade"), out, Console(quiet=True))
    manifest = read_manifest(out)
    check_files(out, manifest)
    assert not [name for name in manifest.files if str(settings.run.dir).encode() in (out / name).read_bytes()]
    codec = tiny_data.codec
    prompt = codec.encode_prompts(tiny_data.test.rows(np.arange(1)).history)[0].tolist()
    longest = codec.max_list_tokens(settings.lists.k)
    assert len(AutoTokenizer.from_pretrained(out)) == len(codec.tokenizer)
    model = AutoModelForCausalLM.from_pretrained(out)
    written = model.generate(torch.tensor([prompt]), max_new_tokens=longest, do_sample=False)[0, len(prompt) :].tolist()
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment |= {"TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    served = subprocess.run(
        [sys.executable, "-c", SERVE, str(out), json.dumps(prompt), str(longest)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    ).stdout
    answer = json.loads(served.split("ANSWER ")[1].splitlines()[0])
    assert answer == written
    assert (manifest.policy, manifest.decode, manifest.lists) == ("blade", "list", settings.lists)
    card = (out / "README.md").read_text()
    numbers = json.loads((paths.evaluation / "summary.json").read_text())
    row = next(line for line in card.splitlines() if line.startswith("| **blade** |"))
    assert f"| **blade** | {numbers['blade']['reward']:.4f} [" in row
