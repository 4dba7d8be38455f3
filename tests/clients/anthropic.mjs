// The `@anthropic-ai/sdk` package, with nothing set but address and key: asks every alias in every way, prints what it read.

import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";

const { aliases, degrees } = JSON.parse(process.argv[2]);
const client = new Anthropic({ maxRetries: 0 });
const messages = [{ role: "user", content: "How is the weather for herons?" }];
const city = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [
  { name: "get_weather", description: "The weather of a city", input_schema: city },
  { name: "get_time", input_schema: { type: "object", properties: {} } },
];
const wish = (model) => ({
  model,
  messages,
  tools,
  max_tokens: 4096,
  system: [{ type: "text", text: "You watch herons.", cache_control: { type: "ephemeral" } }],
  thinking: { type: "enabled", budget_tokens: 2048 },
});

// Readings

function whole(message) {
  const of = (type) => message.content.filter((block) => block.type === type);
  const { input_tokens, cache_read_input_tokens, output_tokens } = message.usage;
  return {
    text: of("text").map((block) => block.text).join(""),
    thinking: of("thinking").map((block) => block.thinking).join(""),
    tools: of("tool_use").map((block) => [block.id, block.name, block.input]),
    stop: message.stop_reason,
    usage: [input_tokens, cache_read_input_tokens ?? 0, output_tokens],
    model: message.model,
  };
}

async function events(stream) {
  let message = null;
  const json = [];
  for await (const event of stream) {
    const block = message?.content[event.index];
    if (event.type === "message_start") message = event.message;
    if (event.type === "content_block_start") {
      message.content[event.index] = event.content_block;
      json[event.index] = "";
    }
    if (event.type === "content_block_delta") {
      const { delta } = event;
      if (delta.type === "text_delta") block.text += delta.text;
      if (delta.type === "thinking_delta") block.thinking += delta.thinking;
      if (delta.type === "input_json_delta") json[event.index] += delta.partial_json;
    }
    if (event.type === "content_block_stop" && block.type === "tool_use") block.input = JSON.parse(json[event.index] || "{}");
    if (event.type === "message_delta") {
      message.stop_reason = event.delta.stop_reason;
      Object.assign(message.usage, event.usage);
    }
  }
  return whole(message);
}

// Ways of asking

const ways = {
  stream: async (model) => events(await client.messages.create({ ...wish(model), stream: true })),
  whole: async (model) => whole(await client.messages.create(wish(model))),
  helper: async (model) => {
    const helper = client.messages.stream(wish(model));
    let text = "";
    helper.on("text", (piece) => (text += piece));
    const read = whole(await helper.finalMessage());
    if (text !== read.text) throw new Error(`texts: ${text}`);
    return read;
  },
};

async function loop(stream) {
  const run = ({ city }) => degrees[city];
  const runner = client.beta.messages.toolRunner({
    model: "our-tools",
    messages,
    max_tokens: 999,
    stream,
    tools: [betaTool({ name: "get_weather", description: "The weather of a city", inputSchema: city, run })],
  });
  const message = await runner.runUntilDone();
  return message.content.map((block) => block.text).join("");
}

// Errors

async function failure(asking) {
  let text = "";
  try {
    for await (const event of await asking()) if (event.delta?.type === "text_delta") text += event.delta.text;
  } catch (error) {
    const { status = null, type = null, message } = error;
    const after = error.headers?.get("retry-after") ?? null;
    return { class: error.constructor.name, status, type, message, after, text };
  }
  return { text };
}
const wrong = new Anthropic({ maxRetries: 0, apiKey: "sk-wrong" });
const failing = (model, by = client) => () => by.messages.create({ model, messages, max_tokens: 99, stream: true });

const found = { read: {}, failed: {} };
for (const alias of aliases)
  for (const [way, ask] of Object.entries(ways))
    found.read[`${way} ${alias}`] = await ask(`our-${alias}`).catch((error) => ({ error: error.stack }));
found.loop = await loop(false).catch((error) => error.stack);
found.streamedLoop = await loop(true).catch((error) => error.stack);
found.failed["wrong-key"] = await failure(failing("our-text", wrong));
for (const alias of ["unknown", "limited", "refused", "broken"]) found.failed[alias] = await failure(failing(`our-${alias}`));
found.count = await client.messages
  .countTokens({ model: "our-text", messages })
  .then((count) => count.input_tokens, (error) => `${error.constructor.name} ${error.status}`);
console.log(JSON.stringify(found));
