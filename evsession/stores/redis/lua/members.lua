-- members.lua: return the index of a user.
--
-- KEYS[1]  {ns:u<hh>}:u:<user>  sid -> "<time> <device>"
--
-- Returns {now, {sid, "<time> <device>", …}}
-- Cost    O(n)

local time = redis.call('TIME')
return {time[1] * 1000 + math.floor(time[2] / 1000), redis.call('HGETALL', KEYS[1])}
