// The seats of a performance: the layout, who is on which seat, and a random choice.

import { SharedArray } from 'k6/data';
import encoding from 'k6/encoding';
import { config } from './config.js';

// Seat ids by index. Shared, because a browser has one layout, but here a thousand interpreters with
// fifteen thousand strings each would take gigabytes.
export const seatIds = new SharedArray('seats', () => {
  if (!config.seatMapFile) throw new Error('SEAT_MAP_FILE is not set');
  const ids = [];
  for (const section of JSON.parse(open(config.seatMapFile)).sections) {
    for (const row of section.rows) {
      for (const seat of row.seats) ids[seat.index] = seat.id;
    }
  }
  // A plain loop, because forEach and every skip the holes that are looked for.
  for (let index = 0; index < ids.length; index += 1) {
    if (ids[index] === undefined) throw new Error(`the seat map has no seat with index ${index}`);
  }
  return ids;
});

export function readBitmap(base64) {
  return new Uint8Array(encoding.b64decode(base64, 'std'));
}

function isTaken(bitmap, index) {
  return ((bitmap[index >> 3] >> (index & 7)) & 1) === 1;
}

const ONES = new Uint8Array(256);
for (let byte = 1; byte < 256; byte += 1) ONES[byte] = ONES[byte >> 1] + (byte & 1);

export function countTaken(bitmap) {
  let taken = 0;
  for (let index = 0; index < bitmap.length; index += 1) taken += ONES[bitmap[index]];
  return taken;
}

// The first free seats after a random one: buyers want to sit together, anywhere. Fewer than
// wanted, or none, when the house is full.
export function pickSeats(bitmap, wanted) {
  const total = seatIds.length;
  const start = Math.floor(Math.random() * total);
  const picked = [];
  for (let step = 0; step < total && picked.length < wanted; step += 1) {
    const index = (start + step) % total;
    if (!isTaken(bitmap, index)) picked.push(seatIds[index]);
  }
  return picked;
}
