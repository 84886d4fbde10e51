-- restore.lua: append one event to a session whose snapshot was lost.
--
-- `append` is commit.lua, with its KEYS and ARGV[1] to ARGV[19].
-- ARGV[20] the header of the snapshot that was lost
--
-- Returns what commit.lua does; "conflict" with the snapshot if there is one
-- Cost    that of a commit

local packed = redis.call('GET', KEYS[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if packed then return {'conflict', ARGV[1], now, '', '', packed} end
local left = tonumber(string.sub(ARGV[20], 89, 101)) - now + ARGV[19]
redis.call('SET', KEYS[6], ARGV[20], 'PX', string.format('%.0f', math.max(left, 1)))
local reply = append()
if reply[1] ~= 'ok' then redis.call('DEL', KEYS[6]) end
return reply
