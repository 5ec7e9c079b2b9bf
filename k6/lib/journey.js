// The frame of every test: is the sale open, and one iteration as one buyer.

import http from 'k6/http';
import { Client, Conflict, Failure, failure } from './client.js';
import { config } from './config.js';
import { journeyTime, journeys } from './metrics.js';
import { freshBuyer } from './users.js';

function read(base, path) {
  const response = http.get(base + path, { tags: { name: 'setup' } });
  if (response.status !== 200) throw new Error(`${base}${path} answered ${response.status}`);
  return response.json();
}

// For setup(): a run against a closed sale would only measure refusals.
export function requireOpenSale() {
  for (const base of config.baseUrls) {
    const { phase } = read(base, `/v1/concerts/${config.concert}/queue`);
    if (phase !== 'open') throw new Error(`the line of ${config.concert} is ${phase} on ${base}`);
  }
}

// For setup(): which performance is sold.
export function findSale() {
  requireOpenSale();
  const concert = read(config.baseUrls[0], `/v1/concerts/${config.concert}`);
  return { performance: concert.performances[0].id };
}

export function asFreshBuyer(walk) {
  const client = new Client(freshBuyer());
  const startedAt = Date.now();
  journeys.add(1, { outcome: 'started' });
  try {
    walk(client);
  } catch (error) {
    journeys.add(1, { outcome: outcomeOf(error) });
    return;
  }
  journeyTime.add(Date.now() - startedAt);
  journeys.add(1, { outcome: 'completed' });
}

function outcomeOf(error) {
  if (error instanceof Conflict) return 'refused';
  // A slip in these scripts must not pass for a quiet run.
  if (!(error instanceof Failure)) failure('script', error.name || 'exception', error.stack || error);
  return 'failed';
}
