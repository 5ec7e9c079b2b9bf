// The metrics that scripts/load_summary.py reads, beside k6's own http_req_duration.

import { Counter, Trend } from 'k6/metrics';

// Tagged with outcome: started, completed, refused (an honest conflict ended it) or failed.
export const journeys = new Counter('journeys');

// Tagged with step and code. A conflict is an answer that the contract promises when others were
// quicker or money is short; whatever else is not what the contract says is an error.
export const conflicts = new Counter('conflicts');
export const errors = new Counter('errors');

export const timeToPass = new Trend('time_to_pass', true);
export const journeyTime = new Trend('journey_time', true);
