"""Trains byte-level BPE with the `tokenizers` library on the texts and options of a JSON file, and counts tokens.

    train_tokenizer.py CASES.json OUT.json
"""

import json
import sys

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

FORMS = {"nfc": normalizers.NFC, "nfd": normalizers.NFD, "nfkc": normalizers.NFKC, "nfkd": normalizers.NFKD}


def train(case, texts):
    tokenizer = Tokenizer(models.BPE())
    if case["normalizer"] != "none":
        tokenizer.normalizer = FORMS[case["normalizer"]]()
    # No merge crosses a line end: words end there (`Ċ` is its byte).
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([level, pre_tokenizers.Split("Ċ", "removed")])
    special = [AddedToken(text, special=True, normalized=False) for text in case["reserved"] + case["special_tokens"]]
    trainer = trainers.BpeTrainer(
        vocab_size=case["vocab_size"],
        min_frequency=case["min_frequency"],
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = level
    tokenizer.decoder = decoders.ByteLevel()
    model = json.loads(tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    return {"vocab": model["vocab"], "merges": merges, "ids": [tokenizer.encode(text).ids for text in texts[:20]]}


def counts(path, texts):
    tokenizer = Tokenizer.from_file(path)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    used = {}
    for row in ids:
        for one in row:
            used[one] = used.get(one, 0) + 1
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    plain = set(tokenizer.get_vocab(with_added_tokens=True).values()) - special
    return {
        "tokens": sum(map(len, ids)),
        "vocab_size": tokenizer.get_vocab_size(with_added_tokens=True),
        "bytes": sum(len(text.encode()) for text in texts),
        "characters": sum(map(len, texts)),
        "unused": len([one for one in plain if one not in used]),
        "rare": len([one for one in plain if 1 <= used.get(one, 0) <= 5]),
    }


with open(sys.argv[1], encoding="utf-8") as file:
    asked = json.load(file)
found = {
    "trained": [train(case, asked["texts"]) for case in asked["cases"]],
    "counted": [counts(path, asked["texts"]) for path in asked["tokenizers"]],
}
with open(sys.argv[2], "w", encoding="utf-8") as file:
    json.dump(found, file)
