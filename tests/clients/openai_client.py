"""The official client against our server: every feature that the pages name. Arguments: base URL, the text of `Say the script.`"""

import sys

import openai

url, script = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
MODEL = "run"
checks = 0


def check(condition, what):
    global checks
    assert condition, what
    checks += 1


def messages(text):
    return [{"role": "user", "content": text}]


def ask(text, **more):
    return client.chat.completions.create(model=MODEL, messages=messages(text), temperature=0, **more)


TOOL = {
    "type": "function",
    "function": {
        "name": "calculate_math",
        "description": "Works a sum out.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    },
}

answer = ask("What is 2 + 3?")
check(answer.choices[0].message.content == "The sum is 5." and answer.choices[0].finish_reason == "stop", answer)
check(answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage)

text, reasons, usage = "", [], None
for chunk in ask("What is 2 + 3?", stream=True, stream_options={"include_usage": True}):
    usage = chunk.usage or usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
check((text, reasons) == ("The sum is 5.", ["stop"]), (text, reasons))
check(usage.completion_tokens == answer.usage.completion_tokens, usage)

check(ask("Say the script.").choices[0].message.content == script, "the script")
stopped = ask("Count.", stop=["17"])
check("17" not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop", stopped)
two = client.chat.completions.create(model=MODEL, messages=messages("Count."), n=2, max_tokens=4, temperature=2, seed=3)
again = client.chat.completions.create(model=MODEL, messages=messages("Count."), n=2, max_tokens=4, temperature=2, seed=3)
check(len(two.choices) == 2 and [c.message for c in two.choices] == [c.message for c in again.choices], two)

scored = ask("What is 2 + 3?", logprobs=True, top_logprobs=2).choices[0].logprobs.content
check(bytes(b for t in scored for b in t.bytes).decode() == "The sum is 5." and len(scored[0].top_logprobs) == 2, scored)

thought = ask("What is a crow?", extra_body={"chat_template_kwargs": {"open_thinking": True}}).choices[0].message
check((thought.reasoning_content, thought.content) == ("A crow has wings.", "A crow is a bird."), thought)

called = ask("What is 12 * 3?", tools=[TOOL])
call = called.choices[0].message.tool_calls[0]
check(called.choices[0].finish_reason == "tool_calls" and call.function.name == "calculate_math", called)
history = messages("What is 12 * 3?") + [
    called.choices[0].message,
    {"role": "tool", "tool_call_id": call.id, "content": "36"},
]
told = client.chat.completions.create(model=MODEL, messages=history, tools=[TOOL], temperature=0)
check(told.choices[0].message.content == "It is 36.", told)

arguments = ""
for chunk in ask("What is 12 * 3?", tools=[TOOL], stream=True):
    for part in chunk.choices[0].delta.tool_calls or []:
        arguments += part.function.arguments or ""
check(arguments == call.function.arguments, arguments)

plain = client.completions.create(model=MODEL, prompt=["<|im_start|>user\nCount."], max_tokens=1, echo=True, logprobs=1, temperature=0)
check(plain.choices[0].logprobs.token_logprobs[0] is None and plain.choices[0].text.startswith("<|im_start|>user"), plain)

vectors = client.embeddings.create(model=MODEL, input=["Count.", "What is a crow?"])
check(len(vectors.data[0].embedding) == 64 and vectors.data[1].index == 1, "embeddings")
check([m.id for m in client.models.list()] == [MODEL], "models")

faults = []
for kind, call in [
    (openai.BadRequestError, lambda: ask("x", max_tokens=-1)),
    (openai.NotFoundError, lambda: client.chat.completions.create(model="none", messages=messages("x"))),
]:
    try:
        call()
    except kind as fault:
        faults.append(fault)
check(len(faults) == 2 and faults[0].param == "max_tokens" and faults[1].code == "model_not_found", faults)
print(f"{checks} checks passed")
