// What `benchmarks.dispatch` measures, of Node's best-known pool: one worker, an empty function.
import { setTimeout as sleep } from "node:timers/promises";
import Piscina from "piscina";

const CALLERS = [1, 4, 16, 64, 256];
const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
const pool = new Piscina({
  filename: new URL("worker.mjs", import.meta.url).href,
  minThreads: 1,
  maxThreads: 1,
});

async function timed(number, gap) {
  const times = [];
  for (let i = 0; i < number; i++) {
    if (gap) await sleep(gap);
    const start = performance.now();
    await pool.run();
    times.push(performance.now() - start);
  }
  return median(times) / 1000;
}

async function rate(callers, seconds) {
  const start = performance.now();
  const end = start + seconds * 1000;
  let done = 0;
  const caller = async () => {
    while (performance.now() < end) {
      await pool.run();
      done++;
    }
  };
  await Promise.all(Array.from({ length: callers }, caller));
  return done / ((performance.now() - start) / 1000);
}

await timed(200, 0);
const rates = {};
for (const callers of CALLERS) rates[callers] = await rate(callers, 0.3);
console.log(
  JSON.stringify({
    version: Piscina.version,
    back_to_back: await timed(300, 0),
    with_gap: await timed(40, 2),
    rates,
  }),
);
await pool.destroy();
