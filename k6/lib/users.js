// The buyers: JSON lines {"user_id", "access_token"}, as `frontrow seed users` prints them.

import { SharedArray } from 'k6/data';
import exec from 'k6/execution';
import { config } from './config.js';

const buyers = new SharedArray('buyers', () =>
  open(config.usersFile)
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => JSON.parse(line)),
);

// Every iteration is another buyer. One who came twice would get the old place back, or reach the
// seat limit, and the test would measure that instead.
export function freshBuyer() {
  const index = exec.scenario.iterationInTest;
  if (index >= buyers.length) {
    exec.test.abort(`all ${buyers.length} buyers of USERS_FILE have been used: seed more`);
  }
  return { index, ...buyers[index] };
}
