// The Vercel AI SDK with its provider for OpenAI-compatible servers: url stream|whole - spec.json
import { readFileSync } from "node:fs";
import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const [url, mode, , file] = process.argv.slice(2);
const spec = JSON.parse(readFileSync(file, "utf8"));
const provider = createOpenAICompatible({ name: "abruzzi", baseURL: `${url}/v1`, apiKey: "ai-sdk" });
let calls = 0;
const tools = Object.fromEntries(
  spec.tools.map(({ function: f }) => [
    f.name,
    tool({
      description: f.description,
      inputSchema: jsonSchema(f.parameters),
      execute: async ({ e }) => (calls++, `result of ${e}`),
    }),
  ]),
);

const messages = [{ role: "user", content: spec.question }];
const answers = [];
for (const next of [spec.follow_up, null]) {
  const wanted = {
    model: provider(spec.model),
    system: spec.system,
    messages,
    tools,
    stopWhen: stepCountIs(spec.steps + 10),
    maxRetries: 0,
    onError: ({ error }) => { throw error; },
  };
  let text, responseMessages;
  if (mode === "stream") {
    const result = streamText(wanted);
    for await (const part of result.fullStream) if (part.type === "error") throw part.error;
    [text, responseMessages] = [await result.text, await result.responseMessages];
  } else {
    ({ text, responseMessages } = await generateText(wanted));
  }
  answers.push(text);
  messages.push(...responseMessages);
  if (next) messages.push({ role: "user", content: next });
}
console.log(JSON.stringify({ answers, calls }));
