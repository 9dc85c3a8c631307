// Walks through files and batches with the official SDK and prints what it saw as one JSON object.
// Usage: node walk.js BASE_URL LINES.jsonl MISSING_ID; time passes at the server with every request.

import { createReadStream, readFileSync } from "node:fs";

import OpenAI, { toFile } from "openai";

const [baseURL, path, missing] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "sk-of-the-test", maxRetries: 0 });
const control = baseURL.replace(/\/v1$/, "/sandbox/faults");
const CHAT = "/v1/chat/completions";
const ENDED = new Set(["completed", "failed", "expired", "cancelled"]);

const ids = async (listing) => {
  const found = [];
  for await (const item of listing) found.push(item.id);
  return found;
};

const rows = async (fileId) => {
  const text = await (await client.files.content(fileId)).text();
  return text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
};

const lines = (texts) => toFile(Buffer.from(texts.map((text) => `${text}\n`).join("")), "lines.jsonl");

const create = (file, endpoint = CHAT, metadata = {}) =>
  client.batches.create({ input_file_id: file.id, endpoint, completion_window: "24h", metadata });

const until = async (id, reached) => {
  for (let look = 0; look < 200; look += 1) {
    const batch = await client.batches.retrieve(id);
    if (reached(batch)) return batch;
  }
  throw new Error(`batch ${id} never got there`);
};

const ended = (id) => until(id, (batch) => ENDED.has(batch.status));

const fault = async (settings) => {
  const reply = await fetch(control, { method: "POST", body: JSON.stringify({ times: 1, ...settings }) });
  if (reply.status !== 201) throw new Error(await reply.text());
};

const refused = async (call) => {
  try {
    await call();
  } catch (error) {
    const { status, code, param, type } = error;
    return { name: error.constructor.name, status, code, param, type, message: error.message };
  }
  return { name: "nothing was refused" };
};

const files = async () => {
  const uploaded = await client.files.create({
    file: createReadStream(path),
    purpose: "batch",
    expires_after: { anchor: "created_at", seconds: 86400 },
  });
  const retrieved = await client.files.retrieve(uploaded.id);
  const content = await (await client.files.content(uploaded.id)).text();
  const made = [uploaded.id];
  for (const name of ["1.jsonl", "2.jsonl", "3.jsonl", "4.jsonl"]) {
    const file = await toFile(readFileSync(path), name);
    made.push((await client.files.create({ file, purpose: "batch" })).id);
  }
  const page = await client.files.list({ limit: 2, order: "asc" });
  const next = await page.getNextPage();
  const iterated = await ids(client.files.list({ limit: 2, order: "asc" }));
  const deleted = await client.files.delete(made[4]);
  const gone = await refused(() => client.files.retrieve(made[4]));
  return {
    uploaded,
    retrieved,
    content,
    made,
    pages: [page.data.map((file) => file.id), next.data.map((file) => file.id)],
    iterated,
    deleted,
    gone,
  };
};

const batches = async () => {
  const answers = {};
  const byEndpoint = Object.groupBy(
    readFileSync(path, "utf8").split("\n").filter(Boolean),
    (line) => JSON.parse(line).url,
  );
  const made = [];
  for (const [endpoint, asked] of Object.entries(byEndpoint)) {
    const file = await client.files.create({ file: await lines(asked), purpose: "batch" });
    const created = await create(file, endpoint, { walk: endpoint });
    const end = await ended(created.id);
    made.push(created.id);
    answers[endpoint] = {
      created,
      end,
      output: await rows(end.output_file_id),
      errors: end.error_file_id ? await rows(end.error_file_id) : [],
    };
  }
  const [question] = byEndpoint[CHAT].map((line) => JSON.parse(line));
  const tenfold = Array.from({ length: 10 }, (_, at) => JSON.stringify({ ...question, custom_id: `c-${at}` }));
  const many = await client.files.create({ file: await lines(tenfold), purpose: "batch" });
  const running = await until((await create(many)).id, (batch) => batch.request_counts.completed > 1);
  const cancelled = await client.batches.cancel(running.id);
  const end = await ended(running.id);
  made.push(running.id);
  const page = await client.batches.list({ limit: 2 });
  const next = await page.getNextPage();
  return {
    answers,
    cancelled,
    end,
    kept: await rows(end.output_file_id),
    made,
    pages: [page.data.map((batch) => batch.id), next.data.map((batch) => batch.id)],
    iterated: await ids(client.batches.list({ limit: 2 })),
  };
};

const errors = async () => {
  const found = {};
  for (const status of [401, 403, 404, 409, 429, 500, 503]) {
    await fault({ name: `status-${status}`, route: "retrieve" });
    found[status] = await refused(() => client.batches.retrieve(missing));
  }
  await fault({ name: "reset-before", route: "retrieve" });
  found.reset = await refused(() => client.batches.retrieve(missing));
  found.missing = await refused(() => client.batches.retrieve(missing));
  found.window = await refused(() =>
    client.batches.create({ input_file_id: missing, endpoint: CHAT, completion_window: "2h" }),
  );
  return found;
};

const models = await ids(client.models.list());
console.log(JSON.stringify({ files: await files(), batches: await batches(), errors: await errors(), models }));
