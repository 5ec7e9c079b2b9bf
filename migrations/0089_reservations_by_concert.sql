-- For cancelling a concert: its paid reservations, without reading everybody's. By state, so that what was given back is no
-- longer among them, wherever the giving back broke off.
ALTER TABLE reservations
    ADD KEY by_concert (concert_id, state);
