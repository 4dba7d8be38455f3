// The `openai` package, with nothing set but address and key: asks every alias in every way and prints what it read.

import OpenAI from "openai";

const { aliases, degrees } = JSON.parse(process.argv[2]);
const client = new OpenAI({ maxRetries: 0 });
const user = [{ role: "user", content: "How is the weather for herons?" }];
const city = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const functions = [
  { name: "get_weather", description: "The weather of a city", parameters: city },
  { name: "get_time", parameters: { type: "object", properties: {} } },
];
const tools = functions.map((one) => ({ type: "function", function: one }));
const flat = functions.map((one) => ({ type: "function", strict: false, ...one }));
const usage = { include_usage: true };

// Readings

const chatUsage = (used) => {
  const cached = used.prompt_tokens_details?.cached_tokens ?? 0;
  return [used.prompt_tokens - cached, cached, used.completion_tokens];
};
const calls = (found) =>
  (found ?? []).map((call) => [call.id, call.function.name, JSON.parse(call.function.arguments)]);

async function chatChunks(chunks) {
  const read = { text: "", thinking: "", tools: [], stop: null, usage: null, model: null };
  const parts = [];
  for await (const chunk of chunks) {
    read.model = chunk.model;
    if (chunk.usage) read.usage = chatUsage(chunk.usage);
    for (const { delta, finish_reason } of chunk.choices) {
      read.text += delta.content ?? "";
      read.thinking += delta.reasoning_content ?? "";
      read.stop = finish_reason ?? read.stop;
      for (const call of delta.tool_calls ?? []) {
        parts[call.index] ??= { id: call.id, function: { name: call.function.name, arguments: "" } };
        parts[call.index].function.arguments += call.function.arguments ?? "";
      }
    }
  }
  return { ...read, tools: calls(parts) };
}

function chatWhole(answer) {
  const { message, finish_reason } = answer.choices[0];
  return {
    text: message.content ?? "",
    thinking: message.reasoning_content ?? "",
    tools: calls(message.tool_calls),
    stop: finish_reason,
    usage: chatUsage(answer.usage),
    model: answer.model,
  };
}

function responsesWhole(answer) {
  const of = (type) => answer.output.filter((item) => item.type === type);
  const used = answer.usage;
  const cached = used.input_tokens_details.cached_tokens;
  return {
    text: answer.output_text,
    thinking: of("reasoning").flatMap((item) => item.summary).map((part) => part.text).join(""),
    tools: of("function_call").map((item) => [item.call_id, item.name, JSON.parse(item.arguments)]),
    stop: answer.status,
    usage: [used.input_tokens - cached, cached, used.output_tokens],
    model: answer.model,
  };
}

async function responsesEvents(events) {
  let [text, thinking, last, next] = ["", "", null, 0];
  for await (const event of events) {
    if (event.sequence_number !== next++) throw new Error(`number ${event.sequence_number} in place of ${next - 1}`);
    if (event.type === "response.output_text.delta") text += event.delta;
    if (event.type === "response.reasoning_summary_text.delta") thinking += event.delta;
    if (event.response) last = event.response;
  }
  last.output_text ??= text;
  const read = responsesWhole(last);
  if (text !== read.text || thinking !== read.thinking) throw new Error(`deltas: ${text} ${thinking}`);
  return read;
}

async function textChunks(chunks) {
  const read = { text: "", stop: null, usage: null, model: null };
  for await (const chunk of chunks) {
    read.model = chunk.model;
    if (chunk.usage) read.usage = chatUsage(chunk.usage);
    for (const choice of chunk.choices) {
      read.text += choice.text;
      read.stop = choice.finish_reason ?? read.stop;
    }
  }
  return read;
}

// Ways of asking

const { completions } = client.chat;
const ways = {
  "chat stream": async (model) =>
    chatChunks(await completions.create({ model, messages: user, tools, stream: true, stream_options: usage })),
  "chat whole": async (model) => chatWhole(await completions.create({ model, messages: user, tools })),
  "chat helper": async (model) => {
    const helper = completions.stream({ model, messages: user, tools, stream_options: usage });
    const { thinking, ...read } = chatWhole(await helper.finalChatCompletion());
    return read; // its accumulator keeps only the last of the members that it does not know
  },
  "responses stream": async (model) =>
    responsesEvents(
      await client.responses.create({
        model,
        input: user,
        tools: flat,
        reasoning: { summary: "auto" },
        stream: true,
      }),
    ),
  "responses whole": async (model) =>
    responsesWhole(await client.responses.create({ model, input: user, tools: flat, reasoning: { summary: "auto" } })),
  "responses helper": async (model) =>
    responsesWhole(
      await client.responses
        .stream({ model, input: user, tools: flat, reasoning: { summary: "auto" } })
        .finalResponse(),
    ),
};
const textWays = {
  "completions stream": async (model) =>
    textChunks(
      await client.completions.create({ model, prompt: "Herons", stream: true, stream_options: usage, max_tokens: 99 }),
    ),
  "completions whole": async (model) => {
    const answer = await client.completions.create({ model, prompt: "Herons", max_tokens: 99 });
    const [{ text, finish_reason }] = answer.choices;
    return { text, stop: finish_reason, usage: chatUsage(answer.usage), model: answer.model };
  },
};

async function loop() {
  const runner = completions.runTools({
    model: "our-tools",
    messages: user,
    stream: true,
    tools: [
      {
        type: "function",
        function: { ...functions[0], parse: JSON.parse, function: (given) => degrees[given.city] },
      },
    ],
  });
  return runner.finalContent();
}

// Errors

async function failure(asking) {
  let text = "";
  let told = {};
  try {
    for await (const chunk of await asking()) {
      text += chunk.choices?.[0]?.delta.content ?? (chunk.type === "response.output_text.delta" ? chunk.delta : "");
      if (chunk.type === "response.failed") told = { class: chunk.type, message: chunk.response.error.message };
    }
  } catch (error) {
    const { status = null, type = null, message } = error;
    const after = error.headers?.get("retry-after") ?? null;
    return { class: error.constructor.name, status, type, message, after, text };
  }
  return { text, ...told };
}
const wrong = new OpenAI({ maxRetries: 0, apiKey: "sk-wrong" });
const failing = {
  chat: (model, by = client) => () => by.chat.completions.create({ model, messages: user, stream: true }),
  responses: (model, by = client) => () => by.responses.create({ model, input: "Herons", stream: true }),
};

const found = { read: {}, failed: {}, models: [] };
for (const alias of aliases)
  for (const [way, ask] of Object.entries(ways))
    found.read[`${way} ${alias}`] = await ask(`our-${alias}`).catch((error) => ({ error: error.stack }));
for (const alias of ["text", "length"])
  for (const [way, ask] of Object.entries(textWays))
    found.read[`${way} ${alias}`] = await ask(`our-${alias}`).catch((error) => ({ error: error.stack }));
found.loop = await loop().catch((error) => error.stack);
for (const [way, ask] of Object.entries(failing)) {
  found.failed[`${way} wrong-key`] = await failure(ask("our-text", wrong));
  for (const alias of ["unknown", "limited", "refused", "broken"])
    found.failed[`${way} ${alias}`] = await failure(ask(`our-${alias}`));
}
for await (const model of client.models.list()) found.models.push(model.id);
console.log(JSON.stringify(found));
