-- fill.lua: return a snapshot as it is now.
--
-- KEYS[1]  {ns:NN}:s:<sid>  snapshot
-- ARGV[1]  sid
--
-- Returns {sid, now, snapshot or nil}
-- Cost    O(size of the snapshot)

local time = redis.call('TIME')
return {ARGV[1], time[1] * 1000 + math.floor(time[2] / 1000), redis.call('GET', KEYS[1])}
