// One buyer's HTTP client. It judges every answer against the contract: expected, an honest
// conflict, "ask again", or an error.

import http from 'k6/http';
import { config } from './config.js';
import { conflicts, errors } from './metrics.js';

// Thrown when the contract's own refusal ends what the buyer was doing. Already counted.
export class Conflict extends Error {
  constructor(step, code) {
    super(`${step}: ${code}`);
    this.code = code;
  }
}

// Thrown when an answer is not what the contract says. Already counted.
export class Failure extends Error {}

const logged = new Set();

export function failure(step, code, detail) {
  errors.add(1, { step, code });
  // Once per virtual user and kind: a server that is down must not fill the terminal.
  if (!logged.has(`${step} ${code}`)) {
    logged.add(`${step} ${code}`);
    console.error(`${step}: ${code}: ${detail}`);
  }
  return new Failure(`${step}: ${code}`);
}

function parsed(response) {
  try {
    return JSON.parse(response.body);
  } catch (_) {
    return null;
  }
}

function problemOf(response) {
  const type = response.headers['Content-Type'] || '';
  if (!type.startsWith('application/problem+json')) return null;
  const problem = parsed(response);
  return problem && problem.status === response.status && problem.code ? problem : null;
}

export class Client {
  constructor(buyer) {
    this.authorization = { Authorization: `Bearer ${buyer.access_token}` };
    // Buyers start at different instances, then every request goes to the next one.
    this.turn = buyer.index;
  }

  // `expect` maps each good status to the fields its body must have (null: the body is not read),
  // `refusals` are the codes that count as conflicts, `again` those that merely mean "not yet",
  // and an `unread` body is received but thrown away.
  call(step, method, path, { headers = {}, body, expect, refusals = [], again = [], unread = false }) {
    const base = config.baseUrls[this.turn % config.baseUrls.length];
    this.turn += 1;
    const sent = body === undefined ? null : JSON.stringify(body);
    const type = sent === null ? {} : { 'Content-Type': 'application/json' };
    const response = http.request(method, base + path, sent, {
      headers: { Accept: 'application/json', ...type, ...headers },
      tags: { name: step },
      timeout: config.requestTimeout,
      redirects: 0,
      responseType: unread ? 'none' : 'text',
    });

    const fields = expect[response.status];
    if (fields === null) return { status: response.status, body: null };
    if (fields) return { status: response.status, body: this.withFields(step, response, fields) };
    return this.refused(step, response, refusals, again);
  }

  withFields(step, response, fields) {
    const body = parsed(response);
    if (body === null || typeof body !== 'object') {
      throw failure(step, 'not_json', `${response.status} without a JSON body`);
    }
    const missing = fields.filter((field) => !(field in body));
    if (missing.length > 0) {
      throw failure(step, 'missing_fields', `${response.status} without ${missing.join(', ')}`);
    }
    return body;
  }

  refused(step, response, refusals, again) {
    if (response.status === 0) throw failure(step, `network_${response.error_code}`, response.error);
    const problem = problemOf(response);
    if (problem === null) {
      throw failure(step, `http_${response.status}`, 'neither expected nor a well-formed problem');
    }
    if (again.includes(problem.code)) return { status: response.status, body: problem };
    if (refusals.includes(problem.code)) {
      conflicts.add(1, { step, code: problem.code });
      throw new Conflict(step, problem.code);
    }
    throw failure(step, problem.code, `${response.status} ${problem.detail} (${problem.request_id})`);
  }

  // For what a list of fields cannot say.
  insist(step, condition, claim) {
    if (!condition) throw failure(step, 'broken_contract', claim);
  }
}
