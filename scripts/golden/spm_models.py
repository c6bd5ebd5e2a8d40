"""Small SentencePiece models of our own and the ids that the library gives, for tests/fixtures/sentencepiece.

    python scripts/golden/spm_models.py        (a Python with sentencepiece)

Each model is trained on the sentences below; `cases.json` holds, for every model, texts with their ids and the
text that the ids decode to.
"""

import io
import json
import random
from pathlib import Path

import sentencepiece as spm

TARGET = Path(__file__).parents[2] / "tests/fixtures/sentencepiece"
WORDS = "the a river otter swims fast and slowly under old stone bridges while rain falls on green hills near town Anna counts seven red boats 12 305 7 each day it's late, we said: no! (maybe) -- yes? größer naïve über 한국어 中文 字".split()
TEXTS = [
    "the otter swims", " leading and trailing  ", "two  spaces   and\ttab", "new\nlines\n\nhere", "The OTTER's bridge, 305 boats!", "größer naïve über", "中文字 한국어 字中", "emoji 🙂 and 🦦", "", " ", "   ", "a", "▁under▁score",
    "x = [1, 2]; y += 3.5e-7", "it's late, we said: no!", "<sep>the<sep>otter <sep> swims", "river<pad_x>bridge", "unknown Ж ж ў", "fullwidth ＡＢＣ １２３ ﬁ", "the river the river the river", "<tool>a</tool>", "\u00a0nbsp\u3000ideographic",
]
MODELS = {
    "bpe_bytes": dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False),
    "bpe_no_prefix": dict(model_type="bpe", byte_fallback=True, add_dummy_prefix=False, normalization_rule_name="identity", remove_extra_whitespaces=False, user_defined_symbols=["<sep>", "<tool>", "</tool>"]),
    "bpe_symbols": dict(model_type="bpe", byte_fallback=True, user_defined_symbols=["<sep>", "<tool>"], control_symbols=["<ctrl>"], normalization_rule_name="nmt_nfkc"),
    "bpe_plain": dict(model_type="bpe", byte_fallback=False, character_coverage=0.98, normalization_rule_name="identity"),
    "unigram": dict(model_type="unigram", byte_fallback=False, normalization_rule_name="identity"),
    "unigram_bytes": dict(model_type="unigram", byte_fallback=True, normalization_rule_name="identity", bos_id=-1, pad_id=3),
}


def main():
    TARGET.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    sentences = [" ".join(rng.choice(WORDS) for _ in range(rng.randrange(4, 14))) for _ in range(600)]
    cases = {}
    for name, options in MODELS.items():
        out = io.BytesIO()
        size = 420 if options["byte_fallback"] else 160
        spm.SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_writer=out, vocab_size=size, hard_vocab_limit=False, minloglevel=2, **options)
        (TARGET / f"{name}.model").write_bytes(out.getvalue())
        sp = spm.SentencePieceProcessor(model_proto=out.getvalue())
        cases[name] = {
            "size": sp.get_piece_size(), "bos": sp.bos_id(), "eos": sp.eos_id(), "unk": sp.unk_id(),
            "texts": [{"text": text, "ids": sp.encode(text), "decoded": sp.decode(sp.encode(text))} for text in TEXTS],
        }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case, ensure_ascii=False)}" for name, case in cases.items())
    (TARGET / "cases.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")


main()
