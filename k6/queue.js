// Buyers join the line, poll as often as they are told until they are let in, and give the slot
// back at once so that the line moves.

import { loadOptions } from './lib/config.js';
import { asFreshBuyer, requireOpenSale } from './lib/journey.js';
import { enter, leave } from './lib/line.js';

export const options = loadOptions(100);

export function setup() {
  requireOpenSale();
}

export default function () {
  asFreshBuyer((client) => leave(client, enter(client)));
}
