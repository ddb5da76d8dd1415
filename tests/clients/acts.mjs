// Reads one act a line and answers each with one line: {number, answer} or {number, error}.
import { createInterface } from 'node:readline';

export function serve(acts) {
  for (const name of ['log', 'warn', 'info', 'debug']) console[name] = (...words) => console.error(...words);
  createInterface({ input: process.stdin }).on('line', async (line) => {
    const { number, act, ...about } = JSON.parse(line);
    let reply;
    try {
      reply = { number, answer: (await acts[act](about)) ?? null };
    } catch (error) {
      reply = { number, error: String(error?.stack ?? error) };
    }
    process.stdout.write(JSON.stringify(reply) + '\n');
  }).on('close', () => process.exit(0));
}
