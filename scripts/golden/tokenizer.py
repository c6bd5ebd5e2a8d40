"""Golden numbers of tests/fixtures/tokenizer, made by Hugging Face's `tokenizers` in Python.

    python scripts/golden/tokenizer.py ../shared/fixtures/minimind3/tokenizer

The tokenizer in that folder is ours (a tokenizer stage on the built-in world); texts, conversations and rendered
prompts are those the reference was recorded with. Ids come from the Python library; labels from upstream's rule:
loss on what follows `<bos>assistant\\n`, up to and with `<eos>\\n`.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer

source, target = Path(sys.argv[1]), Path(__file__).parents[2] / "tests/fixtures/tokenizer"
tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))


def read(name):
    return json.loads((source / f"{name}.json").read_text())


def write(name, cases):
    text = "[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n"
    (target / f"{name}.json").write_text(text)


def encode(text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def labels_of(ids):
    start, end = encode("<|im_start|>assistant\n"), encode("<|im_end|>\n")
    labels, i = [-100] * len(ids), 0
    while i < len(ids):
        if ids[i : i + len(start)] != start:
            i += 1
            continue
        begin = stop = i + len(start)
        while stop < len(ids) and ids[stop : stop + len(end)] != end:
            stop += 1
        for j in range(begin, min(stop + len(end), len(ids))):
            labels[j] = ids[j]
        i = stop + len(end) if stop < len(ids) else len(ids)
    return labels


write(
    "encodings",
    [
        {
            "text": case["text"],
            "ids": (ids := encode(case["text"])),
            "decoded": tokenizer.decode(ids, skip_special_tokens=False),
            "decoded_skip_special": tokenizer.decode(ids, skip_special_tokens=True),
        }
        for case in read("encodings")
    ],
)
write("chat_template", [case | {"ids": encode(case["rendered"])} for case in read("chat_template")])
write(
    "sft_labels",
    [
        case | {"max_length": n, "input_ids": (ids := encode(case["text"])[:n]), "labels": labels_of(ids)}
        for case in read("sft_labels")
        for n in [4 * case["max_length"], 60]
    ],
)
