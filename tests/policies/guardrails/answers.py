"""Answers of providers that say something, in each dialect: in one of its fields, streamed in pieces or whole."""

import json

FIELDS = {
    "openai_chat": ("content", "refusal", "name", "arguments", "reasoning"),
    "openai_completions": ("content",),
    "anthropic": ("content", "name", "arguments", "reasoning"),
    "openai_responses": ("content", "refusal", "name", "arguments", "reasoning"),
}
"""Where a dialect can say it."""


def sse(*events, named=False):
    out = b""
    for event in events:
        if isinstance(event, dict):
            if named:
                out += b"event: " + event["type"].encode() + b"\n"
            event = json.dumps(event).encode()
        out += b"data: " + event + b"\n\n"
    return out


def arguments(pieces):
    """Pieces of a tool call's JSON that says them."""
    inner = [json.dumps(piece)[1:-1] for piece in pieces]
    return ['{"q": "', *inner, '"}']


def streamed(dialect, field, pieces):
    """The reads of a streamed answer: each piece in one of them."""
    return _STREAMS[dialect](field, list(pieces))


def whole(dialect, field, text):
    """A whole answer."""
    return json.dumps(_WHOLES[dialect](field, text)).encode()


def _chat_chunk(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "up", "choices": [choice]}


def _chat_stream(field, pieces):
    deltas = [{"role": "assistant", "content": ""}]
    if field in ("content", "refusal"):
        deltas += [{field: piece} for piece in pieces]
    elif field == "reasoning":
        deltas += [{"reasoning_content": piece} for piece in pieces]
    else:
        name = "".join(pieces) if field == "name" else "look_up"
        said = arguments(pieces) if field == "arguments" else ["{}"]
        call = {"index": 0, "id": "t1", "type": "function", "function": {"name": name, "arguments": ""}}
        deltas.append({"tool_calls": [call]})
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in said]
    finish = "tool_calls" if field in ("name", "arguments") else "stop"
    return [*(sse(_chat_chunk(delta)) for delta in deltas), sse(_chat_chunk({}, finish)), sse(b"[DONE]")]


def _chat_whole(field, text):
    message = {"role": "assistant", "content": None}
    if field in ("content", "refusal"):
        message[field] = text
    elif field == "reasoning":
        message |= {"reasoning_content": text, "content": "so"}
    else:
        name = text if field == "name" else "look_up"
        said = "".join(arguments([text])) if field == "arguments" else "{}"
        message["tool_calls"] = [{"id": "t1", "type": "function", "function": {"name": name, "arguments": said}}]
    return {
        "id": "c1", "object": "chat.completion", "created": 5, "model": "up",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12},
    }  # fmt: skip


def _completion(text, finish=None):
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return {"id": "c1", "object": "text_completion", "created": 5, "model": "up", "choices": [choice]}


def _completions_stream(field, pieces):
    return [*(sse(_completion(piece)) for piece in pieces), sse(_completion("", "stop")), sse(b"[DONE]")]


def _completions_whole(field, text):
    return _completion(text, "stop") | {"usage": {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}}


def _message(content, reason="end_turn"):
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "up", "content": content,
        "stop_reason": reason, "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 9},
    }  # fmt: skip


def _anthropic_stream(field, pieces):
    blocks = {
        "content": ({"type": "text", "text": ""}, "text_delta", "text"),
        "reasoning": ({"type": "thinking", "thinking": "", "signature": ""}, "thinking_delta", "thinking"),
    }
    if field in blocks:
        block, kind, member = blocks[field]
    else:
        name = "".join(pieces) if field == "name" else "look_up"
        block, kind, member = {"type": "tool_use", "id": "t1", "name": name, "input": {}}, "input_json_delta", ""
        member, pieces = "partial_json", arguments(pieces) if field == "arguments" else ["{}"]
    deltas = [{"type": "content_block_delta", "index": 0, "delta": {"type": kind, member: piece}} for piece in pieces]
    usage = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}}
    events = [
        {"type": "message_start", "message": _message([], None)},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        usage,
        {"type": "message_stop"},
    ]
    return [sse(event, named=True) for event in events]


def _anthropic_whole(field, text):
    block = {"type": "text", "text": text}
    if field == "reasoning":
        block = {"type": "thinking", "thinking": text, "signature": "s"}
    elif field == "name":
        block = {"type": "tool_use", "id": "t1", "name": text, "input": {}}
    elif field == "arguments":
        block = {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"q": text}}
    return _message([block])


def _item(field, text):
    if field == "reasoning":
        return {"type": "reasoning", "id": "i1", "summary": [{"type": "summary_text", "text": text}]}
    if field in ("name", "arguments"):
        name = text if field == "name" else "look_up"
        said = "".join(arguments([text])) if field == "arguments" else "{}"
        return {"type": "function_call", "id": "i1", "call_id": "t1", "name": name, "arguments": said}
    part = {"type": "output_text", "text": text, "annotations": []}
    if field == "refusal":
        part = {"type": "refusal", "refusal": text}
    return {"type": "message", "id": "i1", "role": "assistant", "status": "completed", "content": [part]}


def _response(output, status="completed"):
    return {
        "id": "resp_1", "object": "response", "created_at": 5, "model": "up", "status": status, "output": output,
        "usage": {"input_tokens": 3, "output_tokens": 9, "total_tokens": 12},
    }  # fmt: skip


_EVENTS = {
    "content": ("output_text", "text"),
    "refusal": ("refusal", "refusal"),
    "reasoning": ("reasoning_summary_text", "text"),
    "arguments": ("function_call_arguments", "arguments"),
}


def _responses_stream(field, pieces):
    text = "".join(pieces)
    empty = _item(field, text if field == "name" else "")
    if "arguments" in empty:
        empty["arguments"] = ""
    events = [
        {"type": "response.created", "response": _response([], "in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": empty},
    ]
    kind, member = _EVENTS.get(field, _EVENTS["arguments"])
    about = {"item_id": "i1", "output_index": 0, "content_index": 0}
    said = arguments(pieces) if field == "arguments" else ["{}"] if field == "name" else pieces
    events += [{"type": f"response.{kind}.delta", **about, "delta": piece} for piece in said]
    events += [
        {"type": f"response.{kind}.done", **about, member: "".join(said)},
        {"type": "response.output_item.done", "output_index": 0, "item": _item(field, text)},
        {"type": "response.completed", "response": _response([_item(field, text)])},
    ]
    numbered = [event | {"sequence_number": number} for number, event in enumerate(events)]
    return [sse(event, named=True) for event in numbered]


def _responses_whole(field, text):
    return _response([_item(field, text)])


_STREAMS = {
    "openai_chat": _chat_stream,
    "openai_completions": _completions_stream,
    "anthropic": _anthropic_stream,
    "openai_responses": _responses_stream,
}
_WHOLES = {
    "openai_chat": _chat_whole,
    "openai_completions": _completions_whole,
    "anthropic": _anthropic_whole,
    "openai_responses": _responses_whole,
}
