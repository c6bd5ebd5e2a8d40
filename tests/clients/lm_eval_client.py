"""lm-evaluation-harness over our server, tokenizer included. Arguments: completions URL, a folder to write in. Prints each choice's likelihood."""

import json
import os
import sys

os.environ["HF_HOME"] = sys.argv[2]
os.environ["HF_HUB_OFFLINE"] = "1"
import lm_eval  # noqa: E402

url, folder = sys.argv[1:]
rows = [
    {"question": "What is 2 + 3?", "choices": ["The sum is 5.", "The sum is 9.", "A crow"], "answer": 0},
    {"question": "A crow is a", "choices": ["script.", "bird.", "세계"], "answer": 1},
    {"question": "17 18 19", "choices": ["7", "bold", "20 21"], "answer": 2},
]
# Sums and counts that the model never saw: some it gets right, some not.
for n in range(1, 16):
    rows.append({"question": f"What is {n} + 2?", "choices": [f"The sum is {n + 2 + k}." for k in (0, 1, 2)], "answer": 0})
    rows.append({"question": f"Count. {n} {n + 1}", "choices": [f"{n + 3}", f"{n + 2}", f"{n + 2} {n + 3}"], "answer": 1})
data = os.path.join(folder, "rows.jsonl")
with open(data, "w", encoding="utf-8") as out:
    out.writelines(json.dumps(row) + "\n" for row in rows)
task = {
    "task": "small_choice",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": data}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc"}],
}
result = lm_eval.simple_evaluate(
    model="local-completions",
    model_args={"model": "run", "base_url": url, "num_concurrent": 2, "max_retries": 1},
    tasks=[task],
    bootstrap_iters=0,
    log_samples=True,
)
choices = []
for sample in result["samples"]["small_choice"]:
    for (context, continuation), response in zip(
        [(a["arg_0"], a["arg_1"]) if isinstance(a, dict) else a for a in (sample["arguments"].values() if isinstance(sample["arguments"], dict) else sample["arguments"])],
        sample["resps"],
    ):
        likelihood, greedy = response[0]
        choices.append([context, continuation, float(likelihood), str(greedy) == "True"])
print(json.dumps({"acc": result["results"]["small_choice"]["acc,none"], "choices": choices}))
