-- take.lua: take or keep the turn at a background job of a shard.
--
-- The turn has no time to live, because its fencing number must never go back; it lapses by the server's clock.
--
-- KEYS[1]  {ns:NN}:turn:<job>   KEYS[2]  {ns:NN}:<job>  checkpoint   KEYS[3]  {ns:NN}:end
-- ARGV[1]  holder   ARGV[2]  length of the turn in ms
--
-- Returns {fence, checkpoint, end}; end is "<id> <event id>" | {} while another holder has the turn
-- Cost    O(1)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('HMGET', KEYS[1], 'holder', 'fence', 'until')
local holder, fence, till = found[1], tonumber(found[2] or 0), tonumber(found[3] or 0)
if holder ~= ARGV[1] then
  if now < till then return {} end
  fence = fence + 1
end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'fence', fence, 'until', string.format('%.0f', now + ARGV[2]))
return {fence, redis.call('GET', KEYS[2]) or '', redis.call('GET', KEYS[3]) or ('0-0 ' .. string.rep('\0', 16))}
